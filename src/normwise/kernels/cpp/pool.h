// Memory for large outputs that is kept for the next ones.
//
// The system hands out a large block page by page, each zeroed at the first touch, and takes it back whole: for an
// output of 100 MB that costs as much as the arithmetic. A block that is released here stays mapped until another
// output of its size wants it, within a bound, and for ten seconds.
//
// No thread and no signal watches the clock: idle blocks go back when the pool is called next, by `look_after` if by
// nothing else, and a process that calls nothing more says `release_all`. A thread would be in everybody's way at a fork.
// Telling the kernel at each release that it may take the pages when it runs short (MADV_FREE) was measured: 0.5 % of the
// time to fill a block of huge pages, but 200 % where the system has small ones only.
//
// A forked process has its own pool with the same blocks, each page copied when one of the two writes to it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace normwise::pool {

struct State {
  int64_t limit, kept, lent;  // bytes: kept at most, kept now, in use by tensors now
  int64_t reused, fresh;      // how many blocks came from the pool, and from the system
};

// The smallest block that is worth keeping; what is smaller belongs to the framework's own allocator.
constexpr size_t kSmallest = size_t{1} << 20;

void* take(size_t bytes);                 // null where the system has none
void give(void* block, size_t bytes);     // with the size that it was taken with
void set_limit(int64_t bytes);            // 0 switches it off; what is kept beyond it goes back at once
void release_all();                       // everything kept goes back
void look_after();                        // what has been idle for long goes back; next to nothing where nothing is kept
State state();

}  // namespace normwise::pool
