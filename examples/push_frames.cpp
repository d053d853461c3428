// Sends frames to `geal-edge run unix:/run/geal-edge.sock ...`: the protocol of docs/live.md, in C++17 with nothing but POSIX.
//
//     g++ -std=c++17 -O2 -o push_frames push_frames.cpp
//     ./push_frames /run/geal-edge.sock 100 10      (socket, frames, frames a second)
//
// `Sender` is what to copy into a camera process. `send` waits for a copy of the bytes, never for the encoder at the other
// end; where nobody listens it returns false at once, and tries to connect again with the next frame.

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <sys/socket.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>
#include <vector>

#pragma pack(push, 1)
struct Header {  // little-endian, 56 bytes
    char magic[4] = {'G', 'E', 'F', '1'};
    uint32_t kind = 1;             // 0 an image file, 1 pixels, 2 the trip is over
    int64_t capture_time_ns = 0;   // 0: when it arrives
    uint64_t size = 0;             // bytes that follow
    uint32_t width = 0, height = 0, step = 0;
    uint32_t metadata_size = 0;    // bytes of a JSON object behind the picture; 0: none
    char encoding[16] = {};        // as in ROS: rgb8, bgr8, mono8, nv12, uyvy, ...
};
#pragma pack(pop)
static_assert(sizeof(Header) == 56, "the header has 56 bytes");

class Sender {
public:
    explicit Sender(std::string path) : path_(std::move(path)) {}
    ~Sender() { close(); }

    // Pixels of an encoding that the other side knows; `step` bytes a row.
    bool send(const uint8_t* pixels, uint32_t width, uint32_t height, uint32_t step, const char* encoding,
              int64_t capture_time_ns) {
        Header header;
        header.capture_time_ns = capture_time_ns;
        header.size = uint64_t(step) * height;
        header.width = width;
        header.height = height;
        header.step = step;
        std::strncpy(header.encoding, encoding, sizeof header.encoding - 1);
        return (socket_ >= 0 || connect()) && write(&header, sizeof header) && write(pixels, header.size);
    }

    // The trip is over: what its budget selects is released now.
    bool end_trip() {
        Header header;
        header.kind = 2;
        return (socket_ >= 0 || connect()) && write(&header, sizeof header);
    }

private:
    bool connect() {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strncpy(address.sun_path, path_.c_str(), sizeof address.sun_path - 1);
        socket_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (socket_ >= 0 && ::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) return true;
        close();
        return false;
    }

    bool write(const void* data, size_t size) {
        const char* at = static_cast<const char*>(data);
        while (size > 0) {
            ssize_t sent = ::send(socket_, at, size, MSG_NOSIGNAL);  // no SIGPIPE where the other side has ended
            if (sent < 0 && errno == EINTR) continue;
            if (sent <= 0) {
                close();
                return false;
            }
            at += sent;
            size -= size_t(sent);
        }
        return true;
    }

    void close() {
        if (socket_ >= 0) ::close(socket_);
        socket_ = -1;
    }

    std::string path_;
    int socket_ = -1;
};

int main(int argc, char** argv) {
    if (argc != 4) return std::fprintf(stderr, "usage: push_frames SOCKET FRAMES PER_SECOND\n"), 2;
    Sender sender(argv[1]);
    const uint32_t width = 320, height = 180, step = width * 3;
    std::vector<uint8_t> pixels(size_t(step) * height);
    for (int frame = 0, frames = std::atoi(argv[2]); frame < frames; ++frame) {
        for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = uint8_t(i * 7 + size_t(frame) * (i % 251));
        auto now = std::chrono::system_clock::now().time_since_epoch();
        int64_t now_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
        if (!sender.send(pixels.data(), width, height, step, "bgr8", now_ns)) std::fprintf(stderr, "nobody listens\n");
        std::this_thread::sleep_for(std::chrono::duration<double>(1.0 / std::atof(argv[3])));
    }
    return sender.end_trip() ? 0 : 1;
}
