# What the headers need from others; used by the build here and by find_package(trt_pose) elsewhere.

# nlohmann-json for `target`: its CMake package, or the folder that holds nlohmann/json.hpp.
function(trt_pose_use_json target)
  find_package(nlohmann_json QUIET)
  if(TARGET nlohmann_json::nlohmann_json)
    get_target_property(folders nlohmann_json::nlohmann_json INTERFACE_INCLUDE_DIRECTORIES)
  else()
    find_path(NLOHMANN_JSON_INCLUDE_DIR nlohmann/json.hpp)
    if(NOT NLOHMANN_JSON_INCLUDE_DIR)
      message(FATAL_ERROR
        "nlohmann-json was not found. Install nlohmann-json3-dev, or pass -DNLOHMANN_JSON_INCLUDE_DIR=/path/to/include.")
    endif()
    set(folders ${NLOHMANN_JSON_INCLUDE_DIR})
  endif()
  target_include_directories(${target} SYSTEM INTERFACE $<BUILD_INTERFACE:${folders}>)
endfunction()

# trt_pose::engine, where TensorRT (TensorRT_INCLUDE_DIR, TensorRT_LIBRARY; libtensorrt_rtx serves as well) and the CUDA
# toolkit are found. Where they are not, the target is missing and trt_pose::core is all there is.
function(trt_pose_add_engine core)
  find_path(TensorRT_INCLUDE_DIR NvInferRuntime.h
    HINTS ENV TENSORRT_INCLUDE_DIR ENV TRT_PATH PATH_SUFFIXES include x86_64-linux-gnu aarch64-linux-gnu)
  find_library(TensorRT_LIBRARY NAMES nvinfer tensorrt_rtx HINTS ENV TRT_PATH PATH_SUFFIXES lib lib64)
  find_package(CUDAToolkit QUIET)
  if(TensorRT_INCLUDE_DIR AND TensorRT_LIBRARY AND TARGET CUDA::cudart AND NOT TARGET trt_pose::engine)
    add_library(trt_pose::engine INTERFACE IMPORTED GLOBAL)
    target_include_directories(trt_pose::engine SYSTEM INTERFACE ${TensorRT_INCLUDE_DIR})
    target_link_libraries(trt_pose::engine INTERFACE ${core} ${TensorRT_LIBRARY} CUDA::cudart)
    find_library(TensorRT_PLUGIN_LIBRARY NAMES nvinfer_plugin HINTS ENV TRT_PATH PATH_SUFFIXES lib lib64)
    if(TensorRT_PLUGIN_LIBRARY)
      target_link_libraries(trt_pose::engine INTERFACE ${TensorRT_PLUGIN_LIBRARY})
      target_compile_definitions(trt_pose::engine INTERFACE TRT_POSE_NVINFER_PLUGIN)
    endif()
  endif()
endfunction()
