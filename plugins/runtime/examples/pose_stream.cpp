// Frames in, one line of JSON per frame out: raw RGB from standard input, or a camera or video through OpenCV.
//
//   ffmpeg -i video.mp4 -f rawvideo -pix_fmt rgb24 - | pose_stream pose.engine 1280 720
//   pose_stream pose.engine video.mp4        (built with OpenCV; a number is a camera)
#include <cstdlib>
#include <iostream>

#include <trt_pose/engine.hpp>
#ifdef TRT_POSE_OPENCV
#include <opencv2/imgproc.hpp>
#include <opencv2/videoio.hpp>
#endif

namespace {

void print(trt_pose::Engine& engine, const trt_pose::ImageView& image) {
    std::cout << trt_pose::toJson(engine(image), engine.spec()).dump() << "\n" << std::flush;
}

void fromStandardInput(trt_pose::Engine& engine, int width, int height) {
    if (width < 1 || height < 1)
        throw trt_pose::Error("reading frames: the size must be two numbers, width and height.");
    std::vector<std::uint8_t> frame(static_cast<std::size_t>(3) * width * height);
    while (std::cin.read(reinterpret_cast<char*>(frame.data()), static_cast<std::streamsize>(frame.size())))
        print(engine, {frame.data(), width, height});
}

void fromVideo(trt_pose::Engine& engine, const std::string& source) {
#ifdef TRT_POSE_OPENCV
    const bool camera = source.find_first_not_of("0123456789") == std::string::npos;
    cv::VideoCapture capture;
    if (!(camera ? capture.open(std::atoi(source.c_str())) : capture.open(source)))
        throw trt_pose::Error("opening " + source + ": OpenCV cannot read it as video. Check the file or camera.");
    for (cv::Mat frame; capture.read(frame);) {
        cv::cvtColor(frame, frame, cv::COLOR_BGR2RGB);
        print(engine, {frame.data, frame.cols, frame.rows, static_cast<int>(frame.step)});
    }
#else
    (void)engine;
    throw trt_pose::Error("opening " + source +
                          ": built without OpenCV. Pipe raw frames in and give their width and height.");
#endif
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 3 && count != 4)
        return std::puts("usage: pose_stream ENGINE VIDEO | pose_stream ENGINE WIDTH HEIGHT"), 2;
    try {
        trt_pose::Engine engine(arguments[1]);
        if (count == 4)
            fromStandardInput(engine, std::atoi(arguments[2]), std::atoi(arguments[3]));
        else
            fromVideo(engine, arguments[2]);
    } catch (const trt_pose::Error& error) {
        std::cerr << "error: " << error.what() << "\n";
        return 1;
    }
    return 0;
}
