// The thread pool: all threads walk the same list of nodes, with a barrier between nodes.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "kernel.h"

namespace perfxlm {

class Barrier {
 public:
  explicit Barrier(int count) : count_(count) {}
  void arrive_and_wait();

 private:
  const int count_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> generation_{0};
};

// What all threads do at once; called with each one's worker.
using Job = void (*)(const void* context, const Worker& worker);

class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }
  size_t workspace() const { return private_bytes_; }

  // Makes sure that each thread's workspace and the common one have at least these sizes.
  void reserve(size_t private_bytes, size_t shared_bytes);

  // Runs `job` on every thread, the caller's being the first, and returns when all are done.
  void run(Job job, const void* context);

 private:
  struct Free {
    void operator()(unsigned char* p) const { std::free(p); }
  };
  using Memory = std::unique_ptr<unsigned char, Free>;

  void start();
  void work(int id, uint32_t seen);
  Worker worker(int id);
  static Memory allocate(size_t bytes);

  const int threads_;
  std::mutex mutex_;
  std::vector<Memory> workspaces_;
  Memory shared_;
  size_t private_bytes_ = 0, shared_bytes_ = 0;

  std::vector<std::thread>* workers_ = nullptr;  // left behind in a forked child, hence a pointer
  int owner_ = 0;                                // process that started them
  std::unique_ptr<Barrier> barrier_;
  Job job_ = nullptr;
  const void* context_ = nullptr;
  alignas(64) std::atomic<uint32_t> epoch_{0};
  std::atomic<bool> stop_{false};
};

}  // namespace perfxlm
