// Libraries of a machine with GPUs that isn't there: libcuda, libnvidia-ml and libnccl, as far as the doctor asks them.
// COTERIE_FAKE_GPUS says how many there are, COTERIE_FAKE_LINKS what is between them: "switch", "pairs" (0 with 1, 2
// with 3) or "bus"; COTERIE_FAKE_CUDA the CUDA version that the driver goes up to; COTERIE_FAKE_ERROR makes cuInit
// fail.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

int number(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : std::atoi(text);
}

int gpus() {
  return number("COTERIE_FAKE_GPUS", 0);
}

bool links_are(const char* kind) {
  const char* text = std::getenv("COTERIE_FAKE_LINKS");
  return text != nullptr && std::strcmp(text, kind) == 0;
}

/// NVML writes more digits of the domain than CUDA.
void write_id(char* to, std::size_t length, int gpu, bool of_nvml) {
  std::snprintf(to, length, of_nvml ? "%08X:%02X:00.0" : "%04X:%02X:00.0", 0U, 0x1bU + static_cast<unsigned>(gpu));
}

struct Pci {
  char legacy_id[16];
  unsigned domain, bus, device, pci_device, pci_subsystem;
  char id[32];
};

struct FabricInfo {
  unsigned char cluster[16];
  int status;
  unsigned clique;
  unsigned char state;
};

/// A handle is the GPU's number, plus one.
int gpu_of(void* handle) {
  return static_cast<int>(reinterpret_cast<std::size_t>(handle)) - 1;
}

}  // namespace

extern "C" {

int cuInit(unsigned) {
  return number("COTERIE_FAKE_ERROR", 0);
}
int cuGetErrorString(int, const char** text) {
  *text = "the fake driver refuses";
  return 0;
}
int cuDriverGetVersion(int* version) {
  *version = number("COTERIE_FAKE_CUDA", 13000);
  return 0;
}
int cuDeviceGetCount(int* count) {
  *count = gpus();
  return 0;
}
int cuDeviceGet(int* device, int index) {
  *device = index;
  return 0;
}
int cuDeviceGetName(char* name, int length, int) {
  std::snprintf(name, static_cast<std::size_t>(length), "Fake H100");
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == 75 ? 9 : 0;
  return 0;
}
int cuDeviceTotalMem_v2(std::size_t* bytes, int) {
  *bytes = std::size_t{80} << 30;
  return 0;
}
int cuDeviceGetPCIBusId(char* id, int length, int device) {
  write_id(id, static_cast<std::size_t>(length), device, false);
  return 0;
}
int cuDeviceCanAccessPeer(int* can, int, int) {
  *can = links_are("bus") ? 0 : 1;
  return 0;
}

int nvmlInit_v2() {
  return 0;
}
int nvmlShutdown() {
  return 0;
}
int nvmlSystemGetDriverVersion(char* text, unsigned length) {
  std::snprintf(text, length, "580.65.06");
  return 0;
}
int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = static_cast<unsigned>(gpus());
  return 0;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char* id, void** device) {
  for (int gpu = 0; gpu < gpus(); ++gpu) {
    char text[32];
    write_id(text, sizeof text, gpu, false);
    if (std::strcmp(text, id) != 0) continue;
    // NOLINTNEXTLINE(performance-no-int-to-ptr): a handle is a number here
    *device = reinterpret_cast<void*>(static_cast<std::size_t>(gpu) + 1);
    return 0;
  }
  return 6;  // not found
}
int nvmlDeviceGetUUID(void* device, char* text, unsigned length) {
  std::snprintf(text, length, "GPU-%d", gpu_of(device));
  return 0;
}
int nvmlDeviceGetMemoryInfo(void*, unsigned long long* memory) {
  memory[0] = 80ULL << 30;
  memory[1] = 79ULL << 30;
  memory[2] = 1ULL << 30;
  return 0;
}
int nvmlDeviceGetMaxPcieLinkGeneration(void*, unsigned* value) {
  *value = 5;
  return 0;
}
int nvmlDeviceGetCurrPcieLinkWidth(void*, unsigned* value) {
  *value = 16;
  return 0;
}
int nvmlDeviceGetMaxPcieLinkWidth(void*, unsigned* value) {
  *value = 16;
  return 0;
}
int nvmlDeviceGetComputeMode(void*, int* mode) {
  *mode = 0;
  return 0;
}
int nvmlDeviceGetPciInfo_v3(void* device, Pci* pci) {
  write_id(pci->id, sizeof pci->id, gpu_of(device), true);
  return 0;
}
int nvmlDeviceGetTopologyCommonAncestor(void* a, void* b, int* level) {
  *level = gpu_of(a) / 2 == gpu_of(b) / 2 ? 10 : 50;
  return 0;
}
int nvmlDeviceGetNvLinkState(void*, unsigned link, int* active) {
  *active = (links_are("switch") && link < 18) || (links_are("pairs") && link < 4) ? 1 : 0;
  return 0;
}
int nvmlDeviceGetNvLinkRemoteDeviceType(void*, unsigned, int* type) {
  *type = links_are("switch") ? 2 : 0;
  return 0;
}
int nvmlDeviceGetNvLinkRemotePciInfo_v2(void* device, unsigned, Pci* pci) {
  write_id(pci->id, sizeof pci->id, gpu_of(device) ^ 1, true);
  return 0;
}

int nvmlDeviceGetGpuFabricInfo(void*, FabricInfo* info) {
  *info = {};
  info->cluster[0] = static_cast<unsigned char>(number("COTERIE_FAKE_CLUSTER", 0));
  info->clique = 1;
  info->state = 3;
  return 0;
}

int ncclGetVersion(int* version) {
  *version = number("COTERIE_FAKE_NCCL", 22809);
  return 0;
}
}
