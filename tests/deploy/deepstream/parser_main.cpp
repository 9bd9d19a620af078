// Drives the parser library as nvinfer does: layers in, objects out; then the metadata. Prints numbers for the test.
//
//   parser_main CASE, where CASE is one of those in main
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>

#include "nvdsinfer_custom_impl.h"
#include "trt_pose_deepstream.hpp"

extern "C" bool NvDsInferParseTrtPose(std::vector<NvDsInferLayerInfo> const&, NvDsInferNetworkInfo const&,
                                      NvDsInferParseDetectionParams const&, std::vector<NvDsInferInstanceMaskInfo>&);

extern "C" {
NvDsUserMeta* nvds_acquire_user_meta_from_pool(NvDsBatchMeta*) { return new NvDsUserMeta{}; }
void nvds_add_user_meta_to_obj(NvDsObjectMeta* object, NvDsUserMeta* user) {
    object->obj_user_meta_list = new NvDsMetaList{user, object->obj_user_meta_list, nullptr};
}
NvDsMetaType nvds_get_user_meta_type(gchar* name) { return static_cast<NvDsMetaType>(std::strlen(name)) + 4096; }
}

namespace {

constexpr unsigned kRows = 4, kJoints = 3;
float const kNan = std::numeric_limits<float>::quiet_NaN();

struct Outputs {
    int32_t count = 4;
    // A person across the left edge, one that is too thin, one below the threshold, one that is no number.
    std::vector<float> boxes{-5, 10, 100, 200, 3, 3, 3.2F, 90, 0, 0, 50, 50, kNan, 0, 9, 9};
    std::vector<float> scores{0.9F, 0.8F, 0.1F, 0.7F};
    std::vector<float> joints = std::vector<float>(kRows * kJoints * 3);

    Outputs() {
        for (std::size_t place = 0; place < joints.size(); ++place) joints[place] = static_cast<float>(place);
    }

    template <class T>
    static NvDsInferLayerInfo layer(char const* name, NvDsInferDataType type, std::vector<unsigned> const& sides,
                                    T* data) {
        NvDsInferLayerInfo made{};
        made.dataType = type;
        made.inferDims.numDims = static_cast<unsigned>(sides.size());
        made.inferDims.numElements = 1;
        for (std::size_t axis = 0; axis < sides.size(); ++axis) {
            made.inferDims.d[axis] = sides[axis];
            made.inferDims.numElements *= sides[axis];
        }
        made.layerName = name;
        made.buffer = data;
        return made;
    }

    // nvinfer gives them in any order.
    std::vector<NvDsInferLayerInfo> layers() {
        return {layer("pred_joints", FLOAT, {kRows, kJoints, 3}, joints.data()),
                layer("num_predictions", INT32, {1}, &count), layer("pred_scores", FLOAT, {kRows}, scores.data()),
                layer("pred_boxes", FLOAT, {kRows, 4}, boxes.data())};
    }
};

void show(std::vector<NvDsInferInstanceMaskInfo> const& objects) {
    for (auto const& object : objects) {
        std::printf("%u %g %g %g %g %g %u %u %u", object.classId, object.left, object.top, object.width, object.height,
                    object.detectionConfidence, object.mask_width, object.mask_height, object.mask_size);
        for (unsigned place = 0; place < object.mask_width * object.mask_height; ++place)
            std::printf(" %g", object.mask[place]);
        std::printf("\n");
    }
}

// What nvinfer does with the objects of a frame of 1920 x 1080, and a probe behind it.
void attach(std::vector<NvDsInferInstanceMaskInfo> const& objects, TrtPosePlacement placement) {
    NvDsObjectMeta object{}, plain{};
    auto const& first = objects.at(0);
    object.mask_params.data = static_cast<float*>(std::malloc(first.mask_size));
    std::memcpy(object.mask_params.data, first.mask, first.mask_size);
    object.mask_params.size = first.mask_size;
    object.mask_params.width = first.mask_width;
    object.mask_params.height = first.mask_height;
    NvDsMetaList last{&plain, nullptr, nullptr}, head{&object, &last, nullptr};
    NvDsFrameMeta frame{1920, 1080, &head};
    NvDsMetaList frames{&frame, nullptr, nullptr};
    NvDsBatchMeta batch{&frames};
    trt_pose_attach_joints(&batch, placement);
    trt_pose_attach_joints(&batch, placement);  // a second probe changes nothing
    auto const* joints = trt_pose_joints(&object);
    std::printf("joints %u", joints->count);
    for (unsigned place = 0; place < joints->count; ++place) {
        std::printf(" %g %g %g", joints->joints[place].x, joints->joints[place].y, joints->joints[place].confidence);
    }
    std::printf("\nmask %d, other %d\n", object.mask_params.data != nullptr, trt_pose_joints(&plain) != nullptr);
    auto* user = static_cast<NvDsUserMeta*>(object.obj_user_meta_list->data);
    NvDsUserMeta copy = *user;
    copy.user_meta_data = user->base_meta.copy_func(user, nullptr);
    user->base_meta.release_func(user, nullptr);
    std::printf("copy %u\n", static_cast<TrtPoseJoints*>(copy.user_meta_data)->count);
    copy.base_meta.release_func(&copy, nullptr);
    delete user;
    delete object.obj_user_meta_list;
}

}  // namespace

int main(int, char** arguments) {
    std::string const name = arguments[1];
    Outputs outputs;
    auto layers = outputs.layers();
    if (name == "missing") layers.pop_back();
    if (name == "type") layers[3].dataType = HALF;
    if (name == "shape") layers[2].inferDims.numElements = 3;
    if (name == "count") outputs.count = 1000;
    if (name == "none") outputs.count = -1;
    NvDsInferParseDetectionParams params{};
    params.numClassesConfigured = 1;
    if (name != "unset") params.perClassPreclusterThreshold = {0.25F};
    std::vector<NvDsInferInstanceMaskInfo> objects;
    bool const parsed = NvDsInferParseTrtPose(layers, {640, 640, 3}, params, objects);
    std::printf("%s %zu\n", parsed ? "parsed" : "refused", objects.size());
    show(objects);
    if (name == "below") attach(objects, {640, 640, 1, 0});
    if (name == "around") attach(objects, {640, 640, 1, 1});
    if (name == "stretched") attach(objects, {640, 640, 0, 0});
    for (auto& object : objects) delete[] object.mask;
    return 0;
}
