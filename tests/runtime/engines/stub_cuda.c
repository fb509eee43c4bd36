/* A libcuda.so.1 without a GPU: enough of the driver API for cuda.bindings to run `Driver` on.
 *
 * Device memory is host memory. Work given to a stream is queued and done when somebody waits for it, in the order of
 * the stream and behind the events that it waits for, so that results are not there too early. Handles are checked;
 * what was given back, never made, or made in another context is CUDA_ERROR_INVALID_HANDLE or _VALUE, calls without a
 * current context are CUDA_ERROR_INVALID_CONTEXT. stub_* functions let the tests look inside.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { OK, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_CONTEXT = 201, INVALID_HANDLE = 400,
       NOT_READY = 600, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901 };
enum { DEVICE_MEMORY, PINNED_MEMORY, STREAM, EVENT, GRAPH, GRAPH_EXEC, KINDS };
enum { COPY, RECORD, WAIT };
#define TOTAL ((size_t)64 << 20)
#define MANY 4096

typedef struct Object Object;
typedef struct Operation {
    int kind;
    void *to, *from;
    size_t nbytes;
    Object *event;
    long ticket;
} Operation;
struct Object {
    int kind, flags, dead, capturing, broken;
    void *context;
    void *memory;
    size_t nbytes;
    Operation queue[MANY]; /* of streams and graphs */
    int first, last;
    long recorded, happened; /* of events: tickets */
    Object *stream;          /* that will make the event happen */
    double at;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Object *objects[MANY], legacy = {.kind = STREAM};
static int count, live[KINDS], held;
static struct Context primary;
static size_t used;
static long tickets;
static double now; /* the stub's clock: a millisecond for every operation */
static __thread int context_depth;
static __thread struct Context { int device, count; } *contexts[16]; /* the current one is the last */
static __thread Object *capture;

int stub_live(int kind) { return live[kind]; }
int stub_primary(void) { return primary.count; }
int stub_depth(void) { return context_depth; }
int stub_flags(Object *object) { return object->flags; }
void stub_hold(int on) { held = on; }

static void *current(void) { return context_depth ? contexts[context_depth - 1] : NULL; }

static Object *make(int kind, int flags) {
    Object *object = calloc(1, sizeof *object);
    object->kind = kind;
    object->flags = flags;
    object->context = current();
    live[kind]++;
    return objects[count++] = object;
}

static Object *find(int kind, void *handle) {
    if (kind == STREAM && (handle == NULL || handle == (void *)1 || handle == (void *)2)) return &legacy;
    for (int i = 0; i < count; i++)
        if (objects[i] == handle && objects[i]->kind == kind && !objects[i]->dead && objects[i]->context == current())
            return objects[i];
    return NULL;
}

static Object *find_memory(int kind, void *address, size_t nbytes) {
    for (int i = 0; i < count; i++) {
        Object *o = objects[i];
        if (o->kind == kind && !o->dead && o->context == current() && (char *)address >= (char *)o->memory &&
            (char *)address + nbytes <= (char *)o->memory + o->nbytes)
            return o;
    }
    return NULL;
}

static int drop(int kind, void *handle) {
    Object *object = find(kind, handle);
    if (!object || object == &legacy) return INVALID_HANDLE;
    object->dead = 1;
    live[kind]--;
    return OK;
}

static void run(Object *stream, long until);

static void perform(Operation *operation) {
    now += 1;
    if (operation->kind == COPY) memcpy(operation->to, operation->from, operation->nbytes);
    if (operation->kind == RECORD) {
        operation->event->happened = operation->ticket;
        operation->event->at = now;
    }
    if (operation->kind == WAIT && operation->event->happened < operation->ticket)
        run(operation->event->stream, operation->ticket);
}

/* Do what is queued, up to the record with this ticket; 0: everything. */
static void run(Object *stream, long until) {
    while (stream->first < stream->last) {
        Operation *next = &stream->queue[stream->first++];
        perform(next);
        if (until && next->kind == RECORD && next->ticket == until) return;
    }
    stream->first = stream->last = 0;
}

static int submit(void *handle, Operation operation) {
    Object *stream = find(STREAM, handle);
    if (!context_depth) return INVALID_CONTEXT;
    if (!stream || stream->last == MANY) return INVALID_HANDLE;
    stream->queue[stream->last++] = operation;
    return OK;
}

/* What a capture of this thread forbids. */
static int forbidden(void) {
    if (!context_depth) return INVALID_CONTEXT;
    if (!capture) return OK;
    capture->broken = 1;
    return CAPTURE_UNSUPPORTED;
}

#define BEGIN int result = OK; pthread_mutex_lock(&lock)
#define END pthread_mutex_unlock(&lock); return result
#define GUARDED(condition) BEGIN; if ((result = forbidden()) == OK) { condition; } END

int cuInit(unsigned flags) { return flags ? INVALID_VALUE : OK; }
int cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long long flags, int *status) {
    char versioned[128];
    void *self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    if (!strcmp(name, "cuGraphInstantiate")) name = "cuGraphInstantiateWithFlags"; /* since CUDA 12 */
    snprintf(versioned, sizeof versioned, "%s_v2", name);
    *function = dlsym(self, versioned);
    if (!*function) *function = dlsym(self, name);
    if (status) *status = *function ? 0 : 1;
    return *function && version && flags < 4 ? OK : 500; /* CUDA_ERROR_NOT_FOUND */
}
int cuDriverGetVersion(int *version) { *version = 13000; return OK; }
int cuDeviceGetCount(int *number) { *number = 1; return OK; }
int cuDeviceGet(int *device, int ordinal) { *device = 0; return ordinal ? INVALID_DEVICE : OK; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Stub GPU", size); return device; }
int cuDeviceTotalMem_v2(size_t *nbytes, int device) { *nbytes = TOTAL; return device; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 6 : 0;
    return device;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { primary.count++; *context = &primary; return device; }
int cuDevicePrimaryCtxRelease_v2(int device) { return device || primary.count-- <= 0 ? INVALID_CONTEXT : OK; }
int cuDevicePrimaryCtxRelease(int device) { return cuDevicePrimaryCtxRelease_v2(device); }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    *flags = 0;
    *active = primary.count > 0;
    return device;
}
int cuCtxPushCurrent_v2(struct Context *context) {
    if (!context || context_depth == 16 || (context == &primary && !primary.count)) return INVALID_CONTEXT;
    contexts[context_depth++] = context;
    return OK;
}
int cuCtxPopCurrent_v2(void **context) {
    if (!context_depth) return INVALID_CONTEXT;
    if (context) *context = current();
    context_depth--;
    return OK;
}
int cuCtxGetDevice(int *device) {
    *device = context_depth ? contexts[context_depth - 1]->device : -1;
    return context_depth ? OK : INVALID_CONTEXT;
}
int cuCtxGetCurrent(void **context) { *context = current(); return OK; }
/* Contexts may be on a second device, which cuDeviceGet does not know. They are never freed, like their objects. */
int cuCtxCreate_v2(struct Context **context, unsigned flags, int device) {
    *context = calloc(1, sizeof **context);
    (*context)->device = device;
    return flags ? INVALID_VALUE : cuCtxPushCurrent_v2(*context);
}

static const struct { int error; const char *name, *text; } errors[] = {
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {0, "CUDA_ERROR_UNKNOWN", "unknown error"},
};
static int describe(int error) {
    int i = 0;
    while (errors[i].error && errors[i].error != error) i++;
    return i;
}
int cuGetErrorName(int error, const char **name) { *name = errors[describe(error)].name; return OK; }
int cuGetErrorString(int error, const char **text) { *text = errors[describe(error)].text; return OK; }

int cuMemGetInfo_v2(size_t *unused, size_t *total) {
    *unused = TOTAL - used;
    *total = TOTAL;
    return context_depth ? OK : INVALID_CONTEXT;
}

static int allocate(void **address, int kind, size_t nbytes) {
    if (!nbytes) return INVALID_VALUE;
    if (nbytes > TOTAL - (kind == DEVICE_MEMORY ? used : 0)) return OUT_OF_MEMORY;
    Object *object = make(kind, 0);
    object->memory = *address = malloc(nbytes);
    object->nbytes = nbytes;
    memset(object->memory, 0xAB, nbytes);
    if (kind == DEVICE_MEMORY) used += nbytes;
    return OK;
}
static int release(int kind, void *address) {
    Object *object = find_memory(kind, address, 0);
    if (!object || object->memory != address) return INVALID_VALUE;
    if (kind == DEVICE_MEMORY) used -= object->nbytes;
    free(object->memory);
    return drop(kind, object);
}
int cuMemAlloc_v2(void **address, size_t nbytes) { GUARDED(result = allocate(address, DEVICE_MEMORY, nbytes)); }
int cuMemFree_v2(void *address) { GUARDED(result = release(DEVICE_MEMORY, address)); }
int cuMemHostAlloc(void **address, size_t nbytes, unsigned flags) {
    GUARDED(result = flags ? INVALID_VALUE : allocate(address, PINNED_MEMORY, nbytes));
}
int cuMemFreeHost(void *address) { GUARDED(result = release(PINNED_MEMORY, address)); }

static int copy(void *to, int to_kind, void *from, int from_kind, size_t nbytes, void *stream) {
    BEGIN;
    Operation operation = {.kind = COPY, .to = to, .from = from, .nbytes = nbytes};
    int fits = find_memory(to_kind, to, nbytes) && find_memory(from_kind, from, nbytes);
    result = fits ? submit(stream, operation) : INVALID_VALUE;
    END;
}
int cuMemcpyHtoDAsync_v2(void *device, const void *host, size_t nbytes, void *stream) {
    return copy(device, DEVICE_MEMORY, (void *)host, PINNED_MEMORY, nbytes, stream);
}
int cuMemcpyDtoHAsync_v2(void *host, void *device, size_t nbytes, void *stream) {
    return copy(host, PINNED_MEMORY, device, DEVICE_MEMORY, nbytes, stream);
}

int cuStreamCreate(Object **stream, unsigned flags) { GUARDED(*stream = make(STREAM, flags)); }
int cuStreamDestroy_v2(void *stream) { GUARDED(result = drop(STREAM, stream)); }

/* Waits, while `stub_hold`, for another thread to let go: a caller that keeps the GIL never comes back with success. */
static int wait_for_release(void) {
    for (int i = 0; held && i < 5000; i++) usleep(1000);
    return held ? NOT_READY : OK;
}
int cuStreamSynchronize(void *handle) {
    if (wait_for_release()) return NOT_READY;
    BEGIN;
    Object *stream = find(STREAM, handle);
    result = forbidden();
    if (!result && stream) run(stream, 0);
    if (!stream) result = INVALID_HANDLE;
    END;
}

int cuEventCreate(Object **event, unsigned flags) { GUARDED(*event = make(EVENT, flags)); }
int cuEventDestroy_v2(void *event) { GUARDED(result = drop(EVENT, event)); }
int cuEventRecord(void *handle, void *stream) {
    BEGIN;
    Object *event = find(EVENT, handle);
    Operation operation = {.kind = RECORD, .event = event, .ticket = ++tickets};
    result = event ? submit(stream, operation) : INVALID_HANDLE;
    if (!result) event->recorded = tickets, event->stream = find(STREAM, stream);
    END;
}
int cuStreamWaitEvent(void *stream, void *handle, unsigned flags) {
    BEGIN;
    Object *event = find(EVENT, handle);
    Operation operation = {.kind = WAIT, .event = event, .ticket = event ? event->recorded : 0};
    result = event && !flags ? submit(stream, operation) : INVALID_HANDLE;
    END;
}
int cuEventSynchronize(void *handle) {
    if (wait_for_release()) return NOT_READY;
    BEGIN;
    Object *event = find(EVENT, handle);
    result = forbidden();
    if (!event) result = INVALID_HANDLE;
    if (!result && event->happened < event->recorded) run(event->stream, event->recorded);
    END;
}
int cuEventElapsedTime(float *milliseconds, Object *start, Object *end) {
    if ((start->flags | end->flags) & 2) return INVALID_HANDLE;
    if (!start->happened || !end->happened || end->happened < end->recorded) return NOT_READY;
    *milliseconds = end->at - start->at;
    return OK;
}
int cuEventElapsedTime_v2(float *milliseconds, Object *start, Object *end) {
    return cuEventElapsedTime(milliseconds, start, end);
}

int cuStreamBeginCapture_v2(void *handle, int mode) {
    BEGIN;
    Object *stream = find(STREAM, handle);
    if (!stream || stream == &legacy || capture || mode != 1 || !context_depth) result = INVALID_VALUE;
    else run(stream, 0), stream->broken = 0, capture = stream;
    END;
}
int cuStreamEndCapture(void *handle, Object **graph) {
    BEGIN;
    Object *stream = find(STREAM, handle);
    *graph = NULL;
    if (!stream || stream != capture) result = INVALID_VALUE;
    else if (stream->broken) result = CAPTURE_INVALIDATED;
    else {
        *graph = make(GRAPH, 0);
        memcpy((*graph)->queue, stream->queue, sizeof stream->queue);
        (*graph)->last = stream->last;
    }
    if (stream == capture) stream->first = stream->last = 0, capture = NULL;
    END;
}
int cuGraphInstantiateWithFlags(Object **made, void *handle, unsigned long long flags) {
    BEGIN;
    Object *graph = find(GRAPH, handle);
    if (!graph || flags) result = INVALID_VALUE;
    else {
        *made = make(GRAPH_EXEC, 0);
        memcpy((*made)->queue, graph->queue, sizeof graph->queue);
        (*made)->last = graph->last;
    }
    END;
}
int cuGraphDestroy(void *graph) { GUARDED(result = drop(GRAPH, graph)); }
int cuGraphExecDestroy(void *graph) { GUARDED(result = drop(GRAPH_EXEC, graph)); }
int cuGraphLaunch(void *handle, void *stream) {
    BEGIN;
    Object *graph = find(GRAPH_EXEC, handle);
    if (!graph) result = INVALID_HANDLE;
    for (int i = 0; !result && i < graph->last; i++) result = submit(stream, graph->queue[i]);
    END;
}
