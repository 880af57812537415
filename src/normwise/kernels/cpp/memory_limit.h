// How much memory a process may use: the machine's, or less where a container or another control group says so.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <string>

namespace normwise::pool {

// What a control group states in this file; more than there is where it states none ("max", or no such file).
inline int64_t stated(const std::string& file) {
  int64_t bytes = 0;
  return std::ifstream(file) >> bytes && bytes > 0 ? bytes : INT64_MAX;
}

// The least that a group and those around it state. Inside a container the path may be the one outside, of which
// nothing is there, so that the walk ends at the container's own group.
inline int64_t stated_up_from(const std::string& folder, std::string path, const char* file) {
  int64_t least = INT64_MAX;
  while (true) {
    least = std::min(least, stated(folder + path + "/" + file));
    const size_t cut = path.rfind('/');
    if (cut == std::string::npos) return least;
    path.resize(cut);
  }
}

// Control groups as `groups` lists this process's (/proc/self/cgroup), version 2 ("0::/path") and 1 ("4:memory:/path"),
// below `mounted` (/sys/fs/cgroup).
inline int64_t limit_of_groups(const std::string& groups, const std::string& mounted) {
  int64_t least = INT64_MAX;
  std::ifstream lines(groups);
  for (std::string line; std::getline(lines, line);) {
    const size_t name = line.find(':'), path = line.find(':', name + 1);
    if (name == std::string::npos || path == std::string::npos) continue;
    const std::string controllers = "," + line.substr(name + 1, path - name - 1) + ",", at = line.substr(path + 1);
    if (controllers == ",,") least = std::min(least, stated_up_from(mounted, at, "memory.max"));
    if (controllers.find(",memory,") != std::string::npos)
      least = std::min(least, stated_up_from(mounted + "/memory", at, "memory.limit_in_bytes"));
  }
  return least;
}

inline int64_t memory_limit() {
  const int64_t machine = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE);
  return std::min(machine, limit_of_groups("/proc/self/cgroup", "/sys/fs/cgroup"));
}

}  // namespace normwise::pool
