# The CUDA kernels, if nvcc is there to compile them. KERAS_ADDER_CUDA_VERSION
# is the toolkit's version, or empty without kernels; setup.py reads it from
# cuda_version.txt.

set(KERAS_ADDER_CUDA AUTO CACHE STRING
    "AUTO: the op library has CUDA kernels where nvcc is found; ON: must; OFF")
set(KERAS_ADDER_CUDA_VERSION "")

set(wanted "${KERAS_ADDER_CUDA}")
string(TOUPPER "${wanted}" wanted)
if(NOT wanted MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR
      "KERAS_ADDER_CUDA must be AUTO, ON or OFF. Received: ${KERAS_ADDER_CUDA}")
endif()
if(wanted STREQUAL "OFF")
  message(STATUS "CUDA kernels: not built, since KERAS_ADDER_CUDA is OFF")
elseif(wanted STREQUAL "AUTO" AND
       (CMAKE_CROSSCOMPILING OR NOT TENSORFLOW_CFLAGS))
  message(STATUS "CUDA kernels: not built, since nothing here asks for them")
else()
  # Which architectures there are is asked of nvcc below; this one is for
  # CMake's own trial.
  set(CMAKE_CUDA_ARCHITECTURES 80)
  include(CheckLanguage)
  check_language(CUDA)
  set(found "no working nvcc was found")
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12)
      # As distributions have it beside compilers that it is too old for.
      set(found "${CMAKE_CUDA_COMPILER} is ${CMAKE_CUDA_COMPILER_VERSION}, \
and 12.0 is the oldest that will do")
    else()
      set(KERAS_ADDER_CUDA_VERSION ${CMAKE_CUDA_COMPILER_VERSION})
    endif()
  endif()
  if(KERAS_ADDER_CUDA_VERSION)
    # What to do with it is said below.
  elseif(wanted STREQUAL "ON")
    message(FATAL_ERROR
        "KERAS_ADDER_CUDA is ON, but ${found}. Install a CUDA toolkit of "
        "version 12 or newer and put its nvcc on PATH, or set CUDACXX to it; "
        "CUDAHOSTCXX names a C++ compiler that it takes, if the default one "
        "is too new for it. Without GPU kernels: KERAS_ADDER_CUDA=OFF")
  else()
    message(STATUS "CUDA kernels: not built, since ${found}")
  endif()
endif()

if(KERAS_ADDER_CUDA_VERSION)
  set(CMAKE_CUDA_STANDARD 17)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_FLAGS_RELEASE "-O3 -DNDEBUG")
  set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
  execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-arch
      OUTPUT_VARIABLE offered RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "${CMAKE_CUDA_COMPILER} --list-gpu-arch failed")
  endif()
  # Machine code for each of these that this nvcc knows, and for newer GPUs
  # PTX, which their drivers compile when it is first used.
  set(architectures "")
  foreach(architecture 70 75 80 86 89 90)
    if(offered MATCHES "compute_${architecture}(\n|$)")
      list(APPEND architectures ${architecture}-real)
      set(newest ${architecture})
    endif()
  endforeach()
  if(NOT architectures)
    message(FATAL_ERROR "This nvcc compiles for no architecture from 70 to 90")
  endif()
  list(APPEND architectures ${newest}-virtual)
  message(STATUS "CUDA kernels: ${CMAKE_CUDA_COMPILER}, "
      "${KERAS_ADDER_CUDA_VERSION}, for ${architectures}")

  add_library(keras_adder_cuda_objects OBJECT
      cuda/kernels.cu cuda/interface.cc cuda/plan.cc)
  target_include_directories(keras_adder_cuda_objects PRIVATE
      ${CMAKE_CURRENT_SOURCE_DIR})
  set_target_properties(keras_adder_cuda_objects PROPERTIES
      CUDA_ARCHITECTURES "${architectures}"
      CUDA_RUNTIME_LIBRARY Static)
  # Architectures are compiled side by side; what ptxas says of registers and
  # spills is in the build's output.
  target_compile_options(keras_adder_cuda_objects PRIVATE
      $<$<COMPILE_LANGUAGE:CUDA>:--threads=0 -Xptxas=-v>)

  # Static, so that the library loads on machines without CUDA.
  find_package(CUDAToolkit REQUIRED)
  set(cuda_libraries CUDA::cudart_static)
  add_library(keras_adder_cuda SHARED EXCLUDE_FROM_ALL
      $<TARGET_OBJECTS:keras_adder_cuda_objects>)
  target_link_libraries(keras_adder_cuda PRIVATE ${cuda_libraries})
endif()

file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/cuda_version.txt
    "${KERAS_ADDER_CUDA_VERSION}")
