// Memory for large outputs that is kept for the next ones.
//
// The system hands out a large block page by page, each zeroed at the first touch, and takes it back whole: for an
// output of 100 MB that costs as much as the arithmetic. A block that is released here stays mapped until another
// output of its size wants it, within a bound, and not for longer than some seconds of work elsewhere.
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
State state();

}  // namespace normwise::pool
