# find_package(keras_adder): the targets keras_adder::keras_adder, which is
# shared, and keras_adder::keras_adder_static.
include(CMakeFindDependencyMacro)
find_dependency(Threads)
include(${CMAKE_CURRENT_LIST_DIR}/keras_adder-targets.cmake)
