/* A stand-in for the NVIDIA driver's libnvidia-ml.so.1, for tests on machines without a card.
 *
 * It speaks the part of NVML's C interface that deploytool uses, so that the real nvidia-ml-py is exercised.
 * Every call reads the state file named by NVML_STAND_IN_STATE again: what a test writes there is what the next
 * call says, while the program under test runs. A missing file is a driver that is not loaded.
 *
 * The state file has one fact a line; '-' is a figure that the card does not support:
 *
 *   init CODE                  what nvmlInit returns (0 where the line is missing)
 *   driver TEXT                driver version
 *   cuda NUMBER                newest CUDA that it runs, 1000 * major + 10 * minor
 *   fail FUNCTION CODE         the function returns CODE; below a `device` line: for that device only
 *   slow FUNCTION MS           the function takes that long
 *   device                     begins the next device
 *   name TEXT | uuid TEXT | cc MAJOR.MINOR
 *   total MIB | used MIB | reserved MIB
 *   utilisation PERCENT | power MILLIWATT | energy MILLIJOULE | mig 0|1
 *   inclusive 0|1              1: `used` of memory version 2 holds what is reserved too, as R525 documents it
 *   process PID MIB|- PATH     a compute process; graphics PID MIB|- PATH: a graphics process
 *
 * Compiled with -DOLD_DRIVER it lacks the newer symbols, as old drivers do.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_DEVICES 16
#define MAX_PROCESSES 16
#define MAX_FAILURES 32
#define MIB (1024ULL * 1024ULL)

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7,
       DRIVER_NOT_LOADED = 9, VERSION_MISMATCH = 25 };

typedef struct { char function[64]; int code; } failure_t;
typedef struct { unsigned pid; long long mib; int graphics; char path[128]; } process_t;
typedef struct {
    char name[96], uuid[96];
    long long total, used, reserved, utilisation, power, energy, mig, inclusive; /* -1: not supported */
    int major, minor, failures, processes;
    failure_t failure[MAX_FAILURES];
    process_t process[MAX_PROCESSES];
} device_t;
typedef struct {
    int loaded, init, cuda, failures, slows, devices;
    char driver[80];
    failure_t failure[MAX_FAILURES], slow[MAX_FAILURES]; /* slow: code is milliseconds */
    device_t device[MAX_DEVICES];
} state_t;

typedef void *handle_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned gpu, memory; } utilisation_t;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } info_t;

static _Thread_local state_t state;
static int initialised;

static long long figure(const char *text) { return text[0] == '-' ? -1 : atoll(text); }

static void fill(char *out, size_t size, const char *text) { snprintf(out, size, "%s", text); }

static void device_line(device_t *device, const char *key, const char *value) {
    if (!strcmp(key, "name")) fill(device->name, sizeof device->name, value);
    else if (!strcmp(key, "uuid")) fill(device->uuid, sizeof device->uuid, value);
    else if (!strcmp(key, "cc")) sscanf(value, "%d.%d", &device->major, &device->minor);
    else if (!strcmp(key, "total")) device->total = figure(value);
    else if (!strcmp(key, "used")) device->used = figure(value);
    else if (!strcmp(key, "reserved")) device->reserved = figure(value);
    else if (!strcmp(key, "utilisation")) device->utilisation = figure(value);
    else if (!strcmp(key, "power")) device->power = figure(value);
    else if (!strcmp(key, "energy")) device->energy = figure(value);
    else if (!strcmp(key, "mig")) device->mig = figure(value);
    else if (!strcmp(key, "inclusive")) device->inclusive = figure(value);
    else if ((!strcmp(key, "process") || !strcmp(key, "graphics")) && device->processes < MAX_PROCESSES) {
        process_t *process = &device->process[device->processes++];
        char mib[32] = "-";
        process->path[0] = 0;
        sscanf(value, "%u %31s %127[^\n]", &process->pid, mib, process->path);
        process->mib = figure(mib);
        process->graphics = key[0] == 'g';
    }
}

static void failure_line(failure_t *list, int *count, const char *value) {
    if (*count < MAX_FAILURES && sscanf(value, "%63s %d", list[*count].function, &list[*count].code) == 2)
        (*count)++;
}

static void read_state(void) {
    const char *path = getenv("NVML_STAND_IN_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512], key[32];
    device_t *device = NULL;
    memset(&state, 0, sizeof state);
    if (!file) return;
    state.loaded = 1;
    while (fgets(line, sizeof line, file)) {
        int skip = 0;
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, "%31s %n", key, &skip) != 1) continue;
        const char *value = line + skip;
        if (!strcmp(key, "init")) state.init = atoi(value);
        else if (!strcmp(key, "cuda")) state.cuda = atoi(value);
        else if (!strcmp(key, "driver")) fill(state.driver, sizeof state.driver, value);
        else if (!strcmp(key, "device") && state.devices < MAX_DEVICES) device = &state.device[state.devices++];
        else if (!strcmp(key, "fail") && device) failure_line(device->failure, &device->failures, value);
        else if (!strcmp(key, "fail")) failure_line(state.failure, &state.failures, value);
        else if (!strcmp(key, "slow")) failure_line(state.slow, &state.slows, value);
        else if (device) device_line(device, key, value);
    }
    fclose(file);
}

static int failed(const failure_t *list, int count, const char *function) {
    for (int i = 0; i < count; i++)
        if (!strcmp(list[i].function, function)) return list[i].code;
    return OK;
}

/* What every call begins with: the state as it is now, and the code that the test wants of this function. */
static int enter(const char *function) {
    read_state();
    int milliseconds = failed(state.slow, state.slows, function);
    if (milliseconds) {
        struct timespec pause = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
        nanosleep(&pause, NULL);
    }
    if (!initialised) return UNINITIALIZED;
    if (!state.loaded) return DRIVER_NOT_LOADED;
    return failed(state.failure, state.failures, function);
}

static int enter_device(const char *function, handle_t handle, device_t **device) {
    int code = enter(function);
    size_t number = (size_t)handle;
    if (code) return code;
    if (number < 1 || number > (size_t)state.devices) return INVALID_ARGUMENT;
    *device = &state.device[number - 1];
    return failed((*device)->failure, (*device)->failures, function);
}

#define ENTER() do { int code = enter(__func__); if (code) return code; } while (0)
#define ENTER_DEVICE(device) \
    device_t *device = NULL; \
    do { int code = enter_device(__func__, handle, &device); if (code) return code; } while (0)

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    read_state();
    if (!state.loaded) return DRIVER_NOT_LOADED;
    if (state.init) return state.init;
    initialised++;
    return OK;
}

int nvmlShutdown(void) {
    if (!initialised) return UNINITIALIZED;
    initialised--;
    return OK;
}

const char *nvmlErrorString(int code) {
    static _Thread_local char text[48];
    snprintf(text, sizeof text, "stand-in error %d", code);
    return text;
}

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    ENTER();
    fill(version, length, state.driver);
    return OK;
}

int nvmlSystemGetCudaDriverVersion(int *version) {
    ENTER();
    *version = state.cuda;
    return OK;
}

int nvmlSystemGetProcessName(unsigned pid, char *name, unsigned length) {
    ENTER();
    for (int i = 0; i < state.devices; i++)
        for (int j = 0; j < state.device[i].processes; j++)
            if (state.device[i].process[j].pid == pid && state.device[i].process[j].path[0]) {
                fill(name, length, state.device[i].process[j].path);
                return OK;
            }
    return NOT_FOUND;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    ENTER();
    *count = (unsigned)state.devices;
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, handle_t *device) {
    handle_t handle = (handle_t)(size_t)(index + 1);
    ENTER_DEVICE(found);
    (void)found;
    *device = handle;
    return OK;
}

int nvmlDeviceGetName(handle_t handle, char *name, unsigned length) {
    ENTER_DEVICE(device);
    fill(name, length, device->name);
    return OK;
}

int nvmlDeviceGetUUID(handle_t handle, char *uuid, unsigned length) {
    ENTER_DEVICE(device);
    fill(uuid, length, device->uuid);
    return OK;
}

int nvmlDeviceGetCudaComputeCapability(handle_t handle, int *major, int *minor) {
    ENTER_DEVICE(device);
    *major = device->major;
    *minor = device->minor;
    return OK;
}

/* Version 1 counts what the driver reserved as used; version 2 tells the two apart. */
int nvmlDeviceGetMemoryInfo(handle_t handle, memory_t *memory) {
    ENTER_DEVICE(device);
    if (device->total < 0 || device->used < 0) return NOT_SUPPORTED;
    memory->total = (unsigned long long)device->total * MIB;
    memory->used = (unsigned long long)(device->used + device->reserved) * MIB;
    memory->free = memory->total - memory->used;
    return OK;
}

#ifndef OLD_DRIVER
int nvmlDeviceGetMemoryInfo_v2(handle_t handle, memory_v2_t *memory) {
    ENTER_DEVICE(device);
    if (memory->version != (sizeof *memory | 2U << 24)) return VERSION_MISMATCH;
    if (device->total < 0 || device->used < 0) return NOT_SUPPORTED;
    memory->total = (unsigned long long)device->total * MIB;
    memory->used = (unsigned long long)device->used * MIB;
    memory->reserved = (unsigned long long)device->reserved * MIB;
    memory->free = memory->total - memory->used - memory->reserved;
    if (device->inclusive) memory->used += memory->reserved;
    return OK;
}
#endif

int nvmlDeviceGetUtilizationRates(handle_t handle, utilisation_t *rates) {
    ENTER_DEVICE(device);
    if (device->utilisation < 0) return NOT_SUPPORTED;
    rates->gpu = (unsigned)device->utilisation;
    rates->memory = 0;
    return OK;
}

int nvmlDeviceGetPowerUsage(handle_t handle, unsigned *milliwatt) {
    ENTER_DEVICE(device);
    if (device->power < 0) return NOT_SUPPORTED;
    *milliwatt = (unsigned)device->power;
    return OK;
}

int nvmlDeviceGetTotalEnergyConsumption(handle_t handle, unsigned long long *millijoule) {
    ENTER_DEVICE(device);
    if (device->energy < 0) return NOT_SUPPORTED;
    *millijoule = (unsigned long long)device->energy;
    return OK;
}

int nvmlDeviceGetMigMode(handle_t handle, unsigned *current, unsigned *pending) {
    ENTER_DEVICE(device);
    if (device->mig < 0) return NOT_SUPPORTED;
    *current = *pending = (unsigned)device->mig;
    return OK;
}

static int processes(const device_t *device, int graphics, unsigned *count, info_t *infos) {
    unsigned room = *count, found = 0;
    for (int i = 0; i < device->processes; i++)
        if (device->process[i].graphics == graphics) found++;
    *count = found;
    if (found > room || (found && !infos)) return TOO_SMALL;
    for (int i = 0, j = 0; i < device->processes; i++) {
        const process_t *process = &device->process[i];
        if (process->graphics != graphics) continue;
        infos[j].pid = process->pid;
        infos[j].used = process->mib < 0 ? ~0ULL : (unsigned long long)process->mib * MIB;
        infos[j].gpu_instance = infos[j].compute_instance = ~0U;
        j++;
    }
    return OK;
}

#ifndef OLD_DRIVER
int nvmlDeviceGetComputeRunningProcesses_v3(handle_t handle, unsigned *count, info_t *infos) {
    ENTER_DEVICE(device);
    return processes(device, 0, count, infos);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(handle_t handle, unsigned *count, info_t *infos) {
    ENTER_DEVICE(device);
    return processes(device, 1, count, infos);
}
#endif

int nvmlDeviceGetComputeRunningProcesses_v2(handle_t handle, unsigned *count, info_t *infos) {
    ENTER_DEVICE(device);
    return processes(device, 0, count, infos);
}

int nvmlDeviceGetGraphicsRunningProcesses_v2(handle_t handle, unsigned *count, info_t *infos) {
    ENTER_DEVICE(device);
    return processes(device, 1, count, infos);
}
