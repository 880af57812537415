// The pool without Python and PyTorch: forks while threads are inside it, time that passes, memory limits of groups.
// Every command prints what it found, one fact to a line; the tests in test_compiled_pool_alone.py read it.
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "memory_limit.h"
#include "pool.h"

using namespace normwise;

// The clock of the whole process, in place of the C library's, so that seconds pass when the test says so.
static std::atomic<long> g_seconds{0};
extern "C" int clock_gettime(clockid_t clock, struct timespec* time) noexcept {
  const long failed = syscall(SYS_clock_gettime, clock, time);
  time->tv_sec += g_seconds;
  return static_cast<int>(failed);
}

namespace {

constexpr size_t kBytes = size_t{4} << 20;

void print(const char* what, long long value) { std::printf("%s %lld\n", what, value); }

// Forks again and again while other threads do little else than to take and give; a child that finds the pool locked by a
// thread that it does not have is ended by its alarm.
int forks() {
  pool::set_limit(int64_t{1} << 30);
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&] {
      while (!stop) pool::give(pool::take(kBytes), kBytes);
    });
  auto* const kept = static_cast<char*>(pool::take(kBytes));
  std::memset(kept, 7, kBytes);
  int failed = 0;
  for (int turn = 0; turn < 100 && !failed; ++turn) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(5);
      auto* const block = static_cast<char*>(pool::take(kBytes));
      std::memset(block, 9, kBytes);
      pool::give(block, kBytes);
      const bool right = kept[0] == 7 && kept[kBytes - 1] == 7;
      std::memset(kept, 8, kBytes);
      pool::give(kept, kBytes);
      pool::release_all();
      _exit(right && pool::state().kept == 0 ? 0 : 3);
    }
    int status = 0;
    waitpid(child, &status, 0);
    failed += status != 0;
  }
  stop = true;
  for (auto& thread : threads) thread.join();
  print("failed", failed);
  print("untouched", kept[0] == 7 && kept[kBytes - 1] == 7);
  pool::give(kept, kBytes);
  print("lent", pool::state().lent);
  return 0;
}

int idle() {
  pool::set_limit(int64_t{1} << 30);
  void *const one = pool::take(kBytes), *const two = pool::take(kBytes);
  pool::give(one, kBytes);
  g_seconds += 6;
  pool::give(two, kBytes);
  print("both", pool::state().kept);
  g_seconds += 6;
  print("not called", pool::state().kept);
  pool::look_after();
  print("the younger", pool::state().kept);
  pool::look_after();
  print("still", pool::state().kept);
  g_seconds += 6;
  pool::look_after();
  print("none", pool::state().kept);
  return 0;
}

int limit() {
  print("limit", pool::state().limit);
  print("memory", pool::memory_limit());
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  const char* const command = count > 1 ? arguments[1] : "";
  if (!std::strcmp(command, "forks")) return forks();
  if (!std::strcmp(command, "idle")) return idle();
  if (!std::strcmp(command, "limit")) return limit();
  if (!std::strcmp(command, "groups") && count == 4) {
    print("limit", pool::limit_of_groups(arguments[2], arguments[3]));
    return 0;
  }
  return 2;
}
