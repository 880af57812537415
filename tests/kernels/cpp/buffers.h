// Memory that ends at a red zone of AddressSanitizer, or at a page that nobody may touch, or starts behind one.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

enum Place { kHeap, kBeforePage, kBehindPage, kPlaces };

class Buffer {
 public:
  Buffer(size_t bytes, Place place) : bytes_(bytes), place_(place) {
    if (place == kHeap) {
      if (posix_memalign(&base_, 64, bytes ? bytes : 1)) std::abort();
      at_ = static_cast<char*>(base_);
      return;
    }
    const size_t page = sysconf(_SC_PAGESIZE), whole = (bytes + page - 1) / page * page;
    mapped_ = whole + 2 * page;
    base_ = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base_ == MAP_FAILED) std::abort();
    char* const inside = static_cast<char*>(base_) + page;
    if (whole && mprotect(inside, whole, PROT_READ | PROT_WRITE)) std::abort();
    std::memset(inside, kCanary, whole);
    at_ = place == kBeforePage ? inside + (whole - bytes) : inside;
    inside_ = inside, whole_ = whole;
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() {
    if (place_ == kHeap)
      std::free(base_);
    else
      munmap(base_, mapped_);
  }

  template <class T = void>
  T* at() {
    return reinterpret_cast<T*>(at_);
  }
  size_t size() const { return bytes_; }
  void fill(int byte) { std::memset(at_, byte, bytes_); }
  // What lies between the buffer and the far page is untouched.
  bool clean() const {
    for (const char* p = inside_; p < inside_ + whole_; ++p)
      if ((p < at_ || p >= at_ + bytes_) && *p != static_cast<char>(kCanary)) return false;
    return true;
  }
  bool same(const Buffer& other) const { return std::memcmp(at_, other.at_, bytes_) == 0; }

 private:
  static constexpr int kCanary = 0x5c;
  size_t bytes_, mapped_ = 0, whole_ = 0;
  Place place_;
  void* base_ = nullptr;
  char *at_ = nullptr, *inside_ = nullptr;
};
