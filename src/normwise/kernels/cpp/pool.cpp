#include "pool.h"

#include <pthread.h>
#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <list>
#include <mutex>

#include "memory_limit.h"

namespace normwise::pool {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kHuge = size_t{2} << 20;  // a huge page; blocks are whole ones, so that the system can use them
constexpr auto kPatience = std::chrono::seconds(10);

struct Block {
  void* at;
  size_t bytes;
  Clock::time_point since;
};

size_t rounded(size_t bytes) { return (bytes + kHuge - 1) / kHuge * kHuge; }

// NORMWISE_POOL_MB, or an eighth of the memory that there is. A value that is none is said once, as OpenMP says it of
// its own variables, and the usual limit holds: a mistake in a setting that only costs time need not stop a training.
int64_t first_limit() {
  const int64_t usual = memory_limit() / 8;
  const char* const text = std::getenv("NORMWISE_POOL_MB");
  if (!text || !*text) return usual;
  char* end = nullptr;
  errno = 0;
  const long long megabytes = std::strtoll(text, &end, 10);
  if (!*end && end != text && errno == 0 && megabytes >= 0 && megabytes <= INT64_MAX >> 20) return megabytes << 20;
  std::fprintf(stderr,
               "normwise: NORMWISE_POOL_MB is '%s', and a whole number of megabytes from 0, which switches the pool off, "
               "is wanted; %lld are kept at most, as without it.\n",
               text, static_cast<long long>(usual >> 20));
  return usual;
}

class Pool {
 public:
  void* take(size_t bytes) {
    const size_t size = rounded(bytes);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      drop_old();
      for (auto block = blocks_.begin(); block != blocks_.end(); ++block) {  // the youngest first: its pages are warm
        if (block->bytes != size) continue;
        void* const at = block->at;
        state_.kept -= size, state_.lent += size, ++state_.reused;
        blocks_.erase(block);
        holds_ = !blocks_.empty();
        return at;
      }
      state_.lent += size, ++state_.fresh;
    }
    void* at = map(size);
    if (!at) release_all(), at = map(size);  // what is kept may be what is missing
    if (!at) {
      const std::lock_guard<std::mutex> lock(mutex_);
      state_.lent -= size;
    }
    return at;
  }

  void give(void* at, size_t bytes) {
    const size_t size = rounded(bytes);
    const std::lock_guard<std::mutex> lock(mutex_);
    state_.lent -= size, state_.kept += size;
    blocks_.push_front({at, size, Clock::now()});
    drop_old();
  }

  void set_limit(int64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    state_.limit = bytes;
    drop_old();
  }

  void release_all() {
    const std::lock_guard<std::mutex> lock(mutex_);
    while (!blocks_.empty()) drop_last();
    holds_ = false;
  }

  State state() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return state_;
  }

  void look_after() {
    if (!holds_.load(std::memory_order_relaxed)) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    drop_old();
  }

  // Around a fork: a thread that the child does not have must not hold the mutex then.
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  // A block that starts at a huge page: mapped with room to spare, of which the ends go back.
  static void* map(size_t size) {
    void* const wide = mmap(nullptr, size + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (wide == MAP_FAILED) return nullptr;
    const auto from = reinterpret_cast<uintptr_t>(wide), start = (from + kHuge - 1) / kHuge * kHuge;
    if (start > from) munmap(wide, start - from);
    if (start + size < from + size + kHuge) munmap(reinterpret_cast<void*>(start + size), from + kHuge - start);
    void* const at = reinterpret_cast<void*>(start);
#if defined(MADV_HUGEPAGE)
    madvise(at, size, MADV_HUGEPAGE);  // a hint: where it is refused, small pages serve
#endif
    return at;
  }

  void drop_last() {
    munmap(blocks_.back().at, blocks_.back().bytes);
    state_.kept -= blocks_.back().bytes;
    blocks_.pop_back();
  }

  void drop_old() {
    const auto now = Clock::now();
    while (!blocks_.empty() && (state_.kept > state_.limit || now - blocks_.back().since > kPatience)) drop_last();
    holds_ = !blocks_.empty();
  }

  std::mutex mutex_;
  std::list<Block> blocks_;  // the youngest first
  std::atomic<bool> holds_{false};  // whether there are any
  State state_{first_limit(), 0, 0, 0, 0};
};

Pool& pool() {
  static Pool* const one = new Pool;  // never destroyed: tensors may outlive it at exit
  return *one;
}

// When the library is loaded: a wrong setting is said then, not in the middle of the work.
const int g_watched = pthread_atfork([] { pool().lock(); }, [] { pool().unlock(); }, [] { pool().unlock(); });

}  // namespace

void* take(size_t bytes) { return pool().take(bytes); }
void give(void* block, size_t bytes) { pool().give(block, bytes); }
void set_limit(int64_t bytes) { pool().set_limit(bytes); }
void release_all() { pool().release_all(); }
void look_after() { pool().look_after(); }
State state() { return pool().state(); }

}  // namespace normwise::pool
