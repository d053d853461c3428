/* A libcuda.so.1 that answers as a driver does: what cuda-bindings finds where there is no GPU.

   The GPU's memory is the host's, and all is done at once. Every handle is checked: a call with another one is an error. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONTEXT ((void *)0x10)
#define STREAM ((void *)0x20)
#define EVENT ((void *)0x30)
#define GRAPH ((void *)0x40)
#define EXECUTABLE ((void *)0x50)
#define CHECK(right) return (right) ? 0 : 400

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 0; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "a GPU", size); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 8 : 7; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = CONTEXT; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { puts("context released"); return 0; }
int cuCtxSetCurrent(void *context) { CHECK(context == CONTEXT); }
int cuCtxGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return 0; }
int cuStreamCreateWithPriority(void **stream, unsigned flags, int priority) {
    printf("stream of flags %u, priority %d\n", flags, priority);
    *stream = STREAM;
    return 0;
}
int cuStreamDestroy_v2(void *stream) { puts("stream destroyed"); CHECK(stream == STREAM); }
int cuStreamSynchronize(void *stream) { CHECK(stream == STREAM); }
int cuEventCreate(void **event, unsigned flags) { printf("event of flags %u\n", flags); *event = EVENT; return 0; }
int cuEventDestroy_v2(void *event) { CHECK(event == EVENT); }
int cuEventRecord(void *event, void *stream) { CHECK(event == EVENT && stream == STREAM); }
int cuEventSynchronize(void *event) { CHECK(event == EVENT); }
int cuMemAlloc_v2(unsigned long long *pointer, size_t size) { *pointer = (size_t)malloc(size); return 0; }
int cuMemFree_v2(unsigned long long pointer) { puts("memory freed"); free((void *)pointer); return 0; }
int cuMemAllocHost_v2(void **pointer, size_t size) { *pointer = malloc(size); return 0; }
int cuMemFreeHost(void *pointer) { puts("pinned memory freed"); free(pointer); return 0; }
int cuMemcpyHtoDAsync_v2(unsigned long long device, const void *host, size_t size, void *stream) {
    memcpy((void *)device, host, size);
    CHECK(stream == STREAM);
}
int cuMemcpyDtoHAsync_v2(void *host, unsigned long long device, size_t size, void *stream) {
    memcpy(host, (void *)device, size);
    CHECK(stream == STREAM);
}
int cuStreamBeginCapture_v2(void *stream, int mode) { printf("capture of mode %d\n", mode); CHECK(stream == STREAM); }
int cuStreamEndCapture(void *stream, void **graph) { *graph = GRAPH; CHECK(stream == STREAM); }
int cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags) {
    *executable = EXECUTABLE;
    CHECK(graph == GRAPH && flags == 0);
}
int cuGraphDestroy(void *graph) { CHECK(graph == GRAPH); }
int cuGraphLaunch(void *executable, void *stream) { puts("graph launched"); CHECK(executable == EXECUTABLE && stream == STREAM); }
int cuGraphExecDestroy(void *executable) { CHECK(executable == EXECUTABLE); }

/* cuda-bindings asks for names without their version; a header of CUDA would have added it. */
static int find(const char *name, void **function) {
    static const char *const endings[] = {"_v2", "WithFlags", ""};
    void *self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    char whole[128];
    for (int i = 0; i < 3; i++) {
        snprintf(whole, sizeof whole, "%s%s", name, endings[i]);
        if ((*function = dlsym(self, whole))) return 0;
    }
    return 0;
}
int cuGetProcAddress(const char *name, void **function, int version, unsigned long long flags) { return find(name, function); }
int cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long long flags, int *found) {
    return find(name, function);
}
