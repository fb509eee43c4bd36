"""Small shared objects in place of NVIDIA's driver, for the loader to find first."""

import subprocess

# Signatures as in cuda.h and nvml.h. A handle is the device's number plus 40, so that one cannot pass for the other.
CUDA = """
#include <string.h>
int cuInit(unsigned flags) { return INIT; }
int cuDriverGetVersion(int *version) { *version = 12040; return 0; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuDeviceGet(int *handle, int number) { *handle = number + 40; return 0; }
int cuDeviceGetName(char *name, int size, int handle) {
    if (handle < 40 || size < 16) return 101;
    strcpy(name, handle == 40 ? "NVIDIA Test One" : "NVIDIA Test Two"); return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int handle) {
    if (handle < 40) return 101;
    *value = attribute == 75 ? 8 : attribute == 76 ? 9 - (handle - 40) * 3 : -1; return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int handle) {
    if (handle < 40) return 101;
    *bytes = (size_t)24 << 30; return 0;
}
"""
NVML = """
#include <string.h>
int nvmlInit_v2(void) { return INIT; }
int nvmlSystemGetDriverVersion(char *version, unsigned size) { strncpy(version, "550.54.14", size); return 0; }
int nvmlShutdown(void) { return 0; }
"""


def compile_driver(folder, *, cuda_init=0, devices=1, nvml_init=0):
    """A driver for CUDA 12.4 with so many devices; the two functions that begin return these numbers."""
    for name, source, defines in (
        ("libcuda.so.1", CUDA, {"INIT": cuda_init, "COUNT": devices}),
        ("libnvidia-ml.so.1", NVML, {"INIT": nvml_init}),
    ):
        flags = [f"-D{key}={value}" for key, value in defines.items()]
        command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", folder / name, *flags]
        subprocess.run(command, input=source, text=True, check=True)


def driver_is_installed():
    """Whether the loader finds a real one."""
    import ctypes

    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
