// libtrt_pose_plugins.so: the operators of this project as TensorRT plugins. Compiled as CUDA.
//
// One binary serves TensorRT 10.3 to 11.x and TensorRT-RTX: it uses the V3 interfaces alone, links no TensorRT library,
// no logger and no registration macro, and carries its CUDA runtime inside.
#include <dlfcn.h>

#include <iterator>

#include "../keypoint_decode/keypoint_decode_operator.hpp"
#include "../pose_nms/pose_nms_operator.hpp"
#include "plugin.hpp"

namespace trt_pose {
namespace {

template <class Operator>
Creator<Operator>& creatorOf() {
    static Creator<Operator> creator;
    return creator;
}

using Creators = nvinfer1::IPluginCreatorInterface* const[3];

Creators& creators() {
    static Creators all = {&creatorOf<Nms<true>>(), &creatorOf<Nms<false>>(), &creatorOf<KeypointDecodeOperator>()};
    return all;
}

// The registry of a TensorRT of another major version has other virtual functions: only that of the headers is called.
#define TRT_POSE_TEXT(macro) TRT_POSE_WORD(macro)
#define TRT_POSE_WORD(word) #word
#define TRT_POSE_MAJOR TRT_POSE_TEXT(NV_TENSORRT_MAJOR)

// Triton, DeepStream and LD_PRELOAD only open a library. So it registers itself in the TensorRT that is loaded then.
class SelfRegistration {
  public:
    SelfRegistration() {
        for (const char* name : {"libnvinfer.so." TRT_POSE_MAJOR, "libnvinfer_lean.so." TRT_POSE_MAJOR,
                                 "libnvinfer_dispatch.so." TRT_POSE_MAJOR, "libtensorrt_rtx.so." TRT_POSE_MAJOR})
            if (registerWith(name)) return;
    }

    // IPluginRegistry::loadLibrary opens the library, too, and then registers the creators itself: they must be new.
    void undo() {
        if (registry_ == nullptr) return;
        for (auto* creator : creators()) registry_->deregisterCreator(*creator);
        registry_ = nullptr;
    }

  private:
    bool registerWith(const char* name) {
        void* library = dlopen(name, RTLD_NOW | RTLD_NOLOAD);  // loads nothing
        if (library == nullptr) return false;
        const auto version = reinterpret_cast<int32_t (*)()>(dlsym(library, "getInferLibVersion"));
        const auto get = reinterpret_cast<nvinfer1::IPluginRegistry* (*)()>(dlsym(library, "getPluginRegistry"));
        dlclose(library);  // one of the two references
        if (version == nullptr || get == nullptr || version() / 10000 != NV_TENSORRT_MAJOR) return false;
        auto* registry = get();
        if (registry == nullptr || registry->getCreator(Nms<true>::kName, kVersion, kNamespace) != nullptr)
            return false;
        registry_ = registry;
        for (auto* creator : creators()) registry->registerCreator(*creator, kNamespace);
        return true;
    }

    nvinfer1::IPluginRegistry* registry_ = nullptr;
};

SelfRegistration selfRegistration;

}  // namespace
}  // namespace trt_pose

#define TRT_POSE_EXPORT extern "C" __attribute__((visibility("default")))

// What IPluginRegistry::loadLibrary and trtexec's --dynamicPlugins look for.
TRT_POSE_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
    trt_pose::selfRegistration.undo();
    count = static_cast<int32_t>(std::size(trt_pose::creators()));
    return trt_pose::creators();
}

// Required beside getCreators; this library logs nothing.
TRT_POSE_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder*) {}
