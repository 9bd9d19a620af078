// An image in, its people as JSON on standard output and, where a second name is given, a picture of them.
//
//   pose_image pose.engine image.jpg [drawn.jpg]
#include <iostream>

#include "pictures.hpp"
#include <trt_pose/engine.hpp>

int main(int count, char** arguments) {
    if (count != 3 && count != 4) return std::puts("usage: pose_image ENGINE IMAGE [DRAWN]"), 2;
    try {
        trt_pose::Engine engine(arguments[1]);
        auto picture = pictures::read(arguments[2]);
        const auto people = engine(picture.view());
        std::cout << trt_pose::toJson(people, engine.spec()).dump(2) << "\n";
        if (count == 4) {
            pictures::draw(picture, people, engine.spec());
            pictures::write(picture, arguments[3]);
        }
    } catch (const trt_pose::Error& error) {
        std::cerr << "error: " << error.what() << "\n";
        return 1;
    }
    return 0;
}
