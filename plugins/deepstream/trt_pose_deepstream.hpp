// Joints of a person in DeepStream's metadata.
//
// nvinfer scales the boxes of a network to the frame, and knows no joints. The parser of this library therefore hands
// the joints on as the mask of an object, in pixels of the network input. trt_pose_attach_joints makes user metadata of
// them, in pixels of the frame, and removes the mask, which an on-screen display would take for a picture.
//
// Written for DeepStream 7.1 to 9.1; not run in DeepStream.
#pragma once

#include "gstnvdsmeta.h"

extern "C" {

// x and y are px of the frame that nvinfer was given, as the boxes are; confidence is 0 to 1.
struct TrtPoseJoint {
    float x, y, confidence;
};

// What NvDsUserMeta::user_meta_data points to. Not changed after it was attached.
struct TrtPoseJoints {
    unsigned count;
    TrtPoseJoint joints[1];  // count of them
};

// How images were placed in the network input; the file config_infer_pose.txt says the same to nvinfer.
struct TrtPosePlacement {
    unsigned network_width, network_height;
    int keep_aspect_ratio;  // 0: width and height are scaled independently
    int centered;           // 0: the padding is below and right
};

// The type of the user metadata.
NvDsMetaType trt_pose_meta_type(void);

// Attaches the joints of every object that the parser made; call it in a probe on the source pad of nvinfer.
void trt_pose_attach_joints(NvDsBatchMeta* batch, TrtPosePlacement placement);

// The joints of an object, or null.
TrtPoseJoints const* trt_pose_joints(NvDsObjectMeta const* object);
}
