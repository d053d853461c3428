// One frame through a bundle that was exported with `--output clusters`: knowledge clusters, with no Python anywhere.
//
//     clusters BUNDLE/model.onnx FRAME.ppm [CLUSTERS.f32]
//
// FRAME.ppm is a binary PPM (P6), 8 bits, RGB, of exactly the model's size: the bundle's manifest says how a frame gets there
// (`input.resize`), and the resize is part of the feature space. Mean, standard deviation and layout are in the graph. Prints
// how many clusters there are and how many patches went into each; CLUSTERS.f32 gets their unit rows, float32, row after row.

#include <cstdint>
#include <fstream>
#include <iostream>
#include <openvino/openvino.hpp>
#include <stdexcept>
#include <string>
#include <vector>

struct Frame {
    std::size_t width = 0, height = 0;
    std::vector<std::uint8_t> rgb;  // height * width * 3
};

// One number of a PPM's header; comments run from # to the end of the line.
std::size_t header_number(std::istream& in) {
    in >> std::ws;
    while (in.peek() == '#') {
        std::string comment;
        std::getline(in, comment);
        in >> std::ws;
    }
    std::size_t value = 0;
    if (!(in >> value)) throw std::runtime_error("the header is cut off");
    return value;
}

Frame read_ppm(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    std::string magic;
    if (!(in >> magic) || magic != "P6") throw std::runtime_error(path + ": no binary PPM (P6)");
    Frame frame;
    frame.width = header_number(in);
    frame.height = header_number(in);
    if (header_number(in) != 255) throw std::runtime_error(path + ": not 8 bits per channel");
    in.get();  // the one blank before the pixels
    frame.rgb.resize(frame.width * frame.height * 3);
    if (!in.read(reinterpret_cast<char*>(frame.rgb.data()), static_cast<std::streamsize>(frame.rgb.size())))
        throw std::runtime_error(path + ": the pixels are cut off");
    return frame;
}

int run(const std::string& model_path, const std::string& frame_path, const std::string& out_path) {
    const Frame frame = read_ppm(frame_path);

    ov::Core core;
    const auto model = core.read_model(model_path);
    const auto wanted = model->input("image").get_partial_shape();  // N, H, W, 3
    if (wanted[1] != static_cast<ov::Dimension::value_type>(frame.height) ||
        wanted[2] != static_cast<ov::Dimension::value_type>(frame.width))
        throw std::runtime_error(frame_path + ": is not of the model's size " + wanted.to_string());

    // The clusters of bfloat16, which OpenVINO would choose where the processor has it, are not the host's.
    auto compiled = core.compile_model(model, "CPU", ov::hint::inference_precision(ov::element::f32));
    auto request = compiled.create_infer_request();
    ov::Tensor image(ov::element::u8, {1, frame.height, frame.width, 3});
    std::copy(frame.rgb.begin(), frame.rgb.end(), image.data<std::uint8_t>());
    request.set_tensor("image", image);
    request.infer();

    const ov::Tensor clusters = request.get_tensor("clusters");             // float32 [1, K, D]
    const ov::Tensor patch_cluster = request.get_tensor("patch_cluster");   // int32 [1, P], -1 = distilled away
    const auto count = static_cast<std::size_t>(request.get_tensor("cluster_count").data<std::int32_t>()[0]);
    const std::size_t dim = clusters.get_shape()[2];

    std::vector<std::size_t> patches(count);
    for (std::size_t i = 0; i < patch_cluster.get_size(); ++i)
        if (const auto row = patch_cluster.data<std::int32_t>()[i]; row >= 0) ++patches.at(static_cast<std::size_t>(row));
    std::cout << count << " clusters of " << dim << " numbers\n";
    for (std::size_t row = 0; row < count; ++row) std::cout << "  " << row << ": " << patches[row] << " patches\n";

    if (!out_path.empty()) {  // the first `count` rows; what lies behind them is undefined
        std::ofstream out(out_path, std::ios::binary);
        const auto bytes = static_cast<std::streamsize>(count * dim * sizeof(float));
        if (!out.write(reinterpret_cast<const char*>(clusters.data<float>()), bytes).flush())
            throw std::runtime_error(out_path + ": cannot be written");
    }
    return 0;
}

int main(int argc, char** argv) {
    if (argc < 3 || argc > 4) {
        std::cerr << "usage: clusters BUNDLE/model.onnx FRAME.ppm [CLUSTERS.f32]\n";
        return 2;
    }
    try {
        return run(argv[1], argv[2], argc > 3 ? argv[3] : "");
    } catch (const std::exception& error) {
        std::cerr << "clusters: " << error.what() << "\n";
        return 1;
    }
}
