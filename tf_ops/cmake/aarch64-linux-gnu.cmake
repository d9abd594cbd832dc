# Builds the compute core for 64-bit ARM on another machine, with Debian's
# packages g++-aarch64-linux-gnu and, to run its tests, qemu-user:
#
#     cmake -S tf_ops -B build/aarch64 -G Ninja \
#         --toolchain tf_ops/cmake/aarch64-linux-gnu.cmake
#     cmake --build build/aarch64 --target keras_adder_core_test
#     qemu-aarch64 build/aarch64/keras_adder_core_test 7

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
# An executable that the emulator can run without the target's libraries.
set(CMAKE_EXE_LINKER_FLAGS_INIT -static)
