# The C library: static and shared, its headers, and a package that
# find_package(keras_adder) finds in the prefix of `cmake --install`.

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
find_package(Threads REQUIRED)

add_library(keras_adder SHARED
    c_api/keras_adder.cc core/default_pool.cc $<TARGET_OBJECTS:keras_adder_core>)
add_library(keras_adder_static STATIC
    c_api/keras_adder.cc core/default_pool.cc $<TARGET_OBJECTS:keras_adder_core>)
set_target_properties(keras_adder PROPERTIES
    VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})
set_target_properties(keras_adder_static PROPERTIES OUTPUT_NAME keras_adder)
# The header's functions are exported, and nothing of C++; and no symbol of it
# keeps the library in memory when it is unloaded.
set(exports ${CMAKE_CURRENT_SOURCE_DIR}/c_api/exports.map)
target_link_options(keras_adder PRIVATE -Wl,--version-script=${exports})
set_target_properties(keras_adder PROPERTIES LINK_DEPENDS ${exports})
target_compile_definitions(keras_adder_static PUBLIC KERAS_ADDER_STATIC)
# A program in C links the static library with what C++ needs.
target_link_libraries(keras_adder_static INTERFACE stdc++ m)
foreach(library keras_adder keras_adder_static)
  add_library(keras_adder::${library} ALIAS ${library})
  target_include_directories(${library}
      PUBLIC $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include>
             $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>
      PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_link_libraries(${library} PUBLIC Threads::Threads)
  target_compile_options(${library} PRIVATE ${warnings})
  if(TENSORFLOW_CFLAGS)
    # setup.py builds the op library, and nothing beside it.
    set_target_properties(${library} PROPERTIES EXCLUDE_FROM_ALL ON)
  endif()
endforeach()

if(NOT TENSORFLOW_CFLAGS)
  set(package ${CMAKE_INSTALL_LIBDIR}/cmake/keras_adder)
  install(TARGETS keras_adder keras_adder_static EXPORT keras_adder_targets)
  install(DIRECTORY include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(EXPORT keras_adder_targets NAMESPACE keras_adder::
      DESTINATION ${package} FILE keras_adder-targets.cmake)
  write_basic_package_version_file(
      ${CMAKE_CURRENT_BINARY_DIR}/keras_adder-config-version.cmake
      COMPATIBILITY SameMajorVersion)
  install(FILES
      cmake/keras_adder-config.cmake
      ${CMAKE_CURRENT_BINARY_DIR}/keras_adder-config-version.cmake
      DESTINATION ${package})
endif()
