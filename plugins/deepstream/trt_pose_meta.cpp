// From the masks that the parser made to user metadata of the objects; see trt_pose_deepstream.hpp.
#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "trt_pose_deepstream.hpp"

namespace {

std::size_t size_of(unsigned count) { return offsetof(TrtPoseJoints, joints) + count * sizeof(TrtPoseJoint); }

// DeepStream calls both when it copies or drops an object's metadata.
gpointer copy(gpointer data, gpointer) {
    auto const* meta = static_cast<TrtPoseJoints*>(static_cast<NvDsUserMeta*>(data)->user_meta_data);
    void* made = std::malloc(size_of(meta->count));
    if (made != nullptr) std::memcpy(made, meta, size_of(meta->count));
    return made;
}

void release(gpointer data, gpointer) {
    auto* user = static_cast<NvDsUserMeta*>(data);
    std::free(user->user_meta_data);
    user->user_meta_data = nullptr;
}

struct Scale {
    float x, y, left, top;

    Scale(TrtPosePlacement const& placed, NvDsFrameMeta const& frame) {
        auto const width = static_cast<float>(frame.pipeline_width), height = static_cast<float>(frame.pipeline_height);
        x = static_cast<float>(placed.network_width) / width;
        y = static_cast<float>(placed.network_height) / height;
        if (placed.keep_aspect_ratio != 0) x = y = std::min(x, y);
        bool const centered = placed.keep_aspect_ratio != 0 && placed.centered != 0;
        left = centered ? (static_cast<float>(placed.network_width) - width * x) / 2.0F : 0.0F;
        top = centered ? (static_cast<float>(placed.network_height) - height * y) / 2.0F : 0.0F;
    }

    TrtPoseJoint joint(float const* values) const { return {(values[0] - left) / x, (values[1] - top) / y, values[2]}; }
};

void attach(NvDsBatchMeta* batch, NvDsObjectMeta* object, Scale const& scale) {
    auto& mask = object->mask_params;
    if (mask.data == nullptr || mask.width != 3 || mask.size != mask.height * 3 * sizeof(float)) return;
    unsigned const count = mask.height;
    auto* joints = static_cast<TrtPoseJoints*>(std::malloc(size_of(count)));
    if (joints == nullptr) return;
    joints->count = count;
    for (unsigned place = 0; place < count; ++place) joints->joints[place] = scale.joint(mask.data + 3 * place);
    NvDsUserMeta* user = nvds_acquire_user_meta_from_pool(batch);
    if (user == nullptr) {
        std::free(joints);
        return;
    }
    user->user_meta_data = joints;
    user->base_meta.meta_type = trt_pose_meta_type();
    user->base_meta.copy_func = copy;
    user->base_meta.release_func = release;
    nvds_add_user_meta_to_obj(object, user);
    g_free(mask.data);
    mask = {};
}

}  // namespace

extern "C" {

NvDsMetaType trt_pose_meta_type(void) {
    static NvDsMetaType const type = nvds_get_user_meta_type(const_cast<gchar*>("TRT_POSE.JOINTS"));
    return type;
}

void trt_pose_attach_joints(NvDsBatchMeta* batch, TrtPosePlacement placement) {
    for (NvDsMetaList* frames = batch->frame_meta_list; frames != nullptr; frames = frames->next) {
        auto* frame = static_cast<NvDsFrameMeta*>(frames->data);
        if (frame->pipeline_width == 0 || frame->pipeline_height == 0) continue;
        Scale const scale(placement, *frame);
        for (NvDsMetaList* objects = frame->obj_meta_list; objects != nullptr; objects = objects->next) {
            attach(batch, static_cast<NvDsObjectMeta*>(objects->data), scale);
        }
    }
}

TrtPoseJoints const* trt_pose_joints(NvDsObjectMeta const* object) {
    for (NvDsMetaList* users = object->obj_user_meta_list; users != nullptr; users = users->next) {
        auto const* user = static_cast<NvDsUserMeta*>(users->data);
        if (user->base_meta.meta_type == trt_pose_meta_type()) return static_cast<TrtPoseJoints*>(user->user_meta_data);
    }
    return nullptr;
}
}
