// What trt_pose_meta.cpp uses of DeepStream's metadata, for tests where DeepStream is not: these structures have more
// fields there. The functions are in parser_main.cpp.
#pragma once
#include <cstdlib>

using gpointer = void*;
using gchar = char;
using NvDsMetaType = int;

struct NvDsMetaList {  // a GList
    void* data;
    NvDsMetaList *next, *prev;
};

struct NvDsBaseMeta {
    NvDsMetaType meta_type;
    gpointer (*copy_func)(gpointer, gpointer);
    void (*release_func)(gpointer, gpointer);
};

struct NvDsUserMeta {
    NvDsBaseMeta base_meta;
    void* user_meta_data;
};

struct NvOSD_MaskParams {
    float* data;
    unsigned int size;
    float threshold;
    unsigned int width, height;
};

struct NvDsObjectMeta {
    NvOSD_MaskParams mask_params;
    NvDsMetaList* obj_user_meta_list;
};

struct NvDsFrameMeta {
    unsigned int pipeline_width, pipeline_height;
    NvDsMetaList* obj_meta_list;
};

struct NvDsBatchMeta {
    NvDsMetaList* frame_meta_list;
};

extern "C" {
NvDsUserMeta* nvds_acquire_user_meta_from_pool(NvDsBatchMeta* batch);
void nvds_add_user_meta_to_obj(NvDsObjectMeta* object, NvDsUserMeta* user);
NvDsMetaType nvds_get_user_meta_type(gchar* name);
inline void g_free(gpointer memory) { std::free(memory); }
}
