// Hands frames to `geal-edge run shm:/front ...` through shared memory: the layout of docs/live.md, in C++17 with nothing but POSIX.
//
//     g++ -std=c++17 -O2 -o push_shm push_shm.cpp        (with glibc before 2.34: -lrt)
//     ./push_shm /front 100 10                           (name, frames, frames a second)
//
// `Ring` is what to copy into a camera process. `send` copies the bytes and never waits, whether anybody reads or not.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <new>
#include <string>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>
#include <vector>

struct Header {  // little-endian, 56 bytes: the same as in the socket
    char magic[4] = {'G', 'E', 'F', '1'};
    uint32_t kind = 1;             // 0 an image file, 1 pixels, 2 the trip is over
    int64_t capture_time_ns = 0;   // 0: when it is read
    uint64_t size = 0;             // bytes of the picture
    uint32_t width = 0, height = 0, step = 0, metadata_size = 0;
    char encoding[16] = {};        // as in ROS: rgb8, bgr8, mono8, nv12, uyvy, ...
};
static_assert(sizeof(Header) == 56, "the header has 56 bytes");

struct Head {  // 64 bytes before the first slot
    char magic[4] = {'G', 'E', 'S', 'M'};
    uint32_t version = 1, slots = 0, slot_bytes = 0;
    std::atomic<uint64_t> newest{0};
    char reserved[40] = {};
};
static_assert(sizeof(Head) == 64 && std::atomic<uint64_t>::is_always_lock_free, "the layout is that of plain numbers");

class Ring {
public:
    // A new object of this name in place of an older one. slot_bytes: 56, the largest picture and its metadata.
    Ring(std::string name, uint32_t slots, uint32_t slot_bytes) : name_(std::move(name)), slots_(slots) {
        stride_ = (64 + uint64_t(slot_bytes) + 63) / 64 * 64;
        bytes_ = 64 + slots * stride_;
        ::shm_unlink(name_.c_str());
        int handle = ::shm_open(name_.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
        if (handle < 0 || ::ftruncate(handle, off_t(bytes_)) != 0) throw std::bad_alloc();
        void* mapped = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, handle, 0);
        ::close(handle);
        if (mapped == MAP_FAILED) throw std::bad_alloc();
        base_ = static_cast<char*>(mapped);
        Head head;
        head.slots = slots;
        head.slot_bytes = slot_bytes;
        std::memcpy(base_ + 4, reinterpret_cast<char*>(&head) + 4, sizeof head - 4);
        std::atomic_thread_fence(std::memory_order_release);
        std::memcpy(base_, head.magic, 4);  // last: who reads it finds the rest
    }
    ~Ring() {
        ::munmap(base_, bytes_);
        ::shm_unlink(name_.c_str());
    }
    Ring(const Ring&) = delete;

    // A picture of `header.size` bytes; `metadata` is a JSON object, or empty. False where it is larger than a slot.
    bool send(Header header, const void* picture, const std::string& metadata = "") {
        header.metadata_size = uint32_t(metadata.size());
        if (64 + sizeof header + header.size + metadata.size() > stride_) return false;
        const uint64_t n = ++sent_;
        char* slot = base_ + 64 + (n - 1) % slots_ * stride_;
        auto* sequence = reinterpret_cast<std::atomic<uint64_t>*>(slot);
        sequence->store(2 * n - 1, std::memory_order_relaxed);
        std::atomic_thread_fence(std::memory_order_release);  // odd before any byte
        std::memcpy(slot + 64, &header, sizeof header);
        if (header.size) std::memcpy(slot + 64 + sizeof header, picture, header.size);
        std::memcpy(slot + 64 + sizeof header + header.size, metadata.data(), metadata.size());
        sequence->store(2 * n, std::memory_order_release);  // even after all bytes
        reinterpret_cast<Head*>(base_)->newest.store(n, std::memory_order_release);
        return true;
    }

private:
    std::string name_;
    uint64_t slots_, stride_ = 0, bytes_ = 0, sent_ = 0;
    char* base_ = nullptr;
};

int main(int argc, char** argv) {
    if (argc != 4) return std::fprintf(stderr, "usage: push_shm /NAME FRAMES PER_SECOND\n"), 2;
    const auto pause = std::chrono::duration<double>(1.0 / std::atof(argv[3]));
    Header header;
    header.width = 320;
    header.height = 180;
    header.step = 3 * header.width;
    header.size = uint64_t(header.step) * header.height;
    std::strncpy(header.encoding, "bgr8", sizeof header.encoding);
    Ring ring(argv[1], 4, uint32_t(sizeof header + header.size + 1000));
    std::vector<uint8_t> pixels(header.size);
    for (int frame = 0, frames = std::atoi(argv[2]); frame < frames; ++frame) {
        for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = uint8_t(i * 7 + size_t(frame) * (i % 251));
        auto now = std::chrono::system_clock::now().time_since_epoch();
        header.capture_time_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
        ring.send(header, pixels.data(), "{\"frame\": " + std::to_string(frame) + ", \"speed_kmh\": 31.5}");
        std::this_thread::sleep_for(pause);
    }
    Header over;
    over.kind = 2;
    ring.send(over, "");
    std::this_thread::sleep_for(std::chrono::seconds(1));  // so that a reader sees it before the ring is gone
    return 0;
}
