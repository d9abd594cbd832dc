// A driver for a GPU that is not there: its memory is the processor's. With it
// the benchmark's whole way is tested, but for kernels on a GPU. Or, built with
// -DOLD, a driver of CUDA 9.1 that can do nothing but say so.

#ifdef OLD

int cuDriverGetVersion(int* version) {
  *version = 9010;
  return 0;
}

#else

#include <stdlib.h>
#include <string.h>
#include <time.h>

int cuInit(unsigned flags) { return flags != 0; }

int cuDriverGetVersion(int* version) {
  *version = 13020;
  return 0;
}

int cuDeviceGet(int* device, int ordinal) {
  *device = 3;
  return ordinal;
}

int cuDeviceGetName(char* name, int size, int device) {
  strncpy(name, "A GPU", size);
  return device != 3;
}

int cuDeviceGetPCIBusId(char* id, int size, int device) {
  strncpy(id, "0000:17:00.0", size);
  return device != 3;
}

int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 13   ? 1980000
           : attribute == 16 ? 132
           : attribute == 75 ? 9
           : attribute == 76 ? 1
                             : -1;
  return device != 3;
}

int cuDevicePrimaryCtxRetain(void** context, int device) {
  *context = &cuInit;
  return device != 3;
}

int cuCtxSetCurrent(void* context) { return context != &cuInit; }
int cuCtxSynchronize(void) { return 0; }

// As a GPU's, of any size but 0, at multiples of 256 bytes, and full of
// whatever was there.
int cuMemAlloc_v2(void** memory, size_t size) {
  if (size == 0) return 1;
  *memory = aligned_alloc(256, (size + 255) / 256 * 256);
  if (*memory == NULL) return 2;
  memset(*memory, 0x7f, size);
  return 0;
}

int cuMemFree_v2(void* memory) {
  free(memory);
  return memory == NULL;
}

int cuMemcpyHtoD_v2(void* to, const void* from, size_t size) {
  memcpy(to, from, size);
  return size == 0;
}

int cuMemcpyDtoH_v2(void* to, const void* from, size_t size) {
  memcpy(to, from, size);
  return size == 0;
}

int cuEventCreate(struct timespec** event, unsigned flags) {
  *event = malloc(sizeof(**event));
  return flags != 0;
}

int cuEventRecord(struct timespec* event, void* stream) {
  return clock_gettime(CLOCK_MONOTONIC, event) != 0 || stream != NULL;
}

int cuEventSynchronize(struct timespec* event) { return event == NULL; }

int cuEventElapsedTime(float* milliseconds, const struct timespec* begin,
                       const struct timespec* end) {
  *milliseconds = (end->tv_sec - begin->tv_sec) * 1e3f +
                  (end->tv_nsec - begin->tv_nsec) * 1e-6f;
  return 0;
}

int cuEventDestroy_v2(struct timespec* event) {
  free(event);
  return 0;
}

#endif
