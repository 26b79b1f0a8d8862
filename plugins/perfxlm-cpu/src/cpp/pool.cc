#include "pool.h"

#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <new>

namespace perfxlm {
namespace {

// A waiting thread spins, then offers its core to others (the late thread may be waiting for this
// very core), and at last sleeps.
constexpr int kSpins = 100;    // a few microseconds
constexpr int kYields = 200;   // at least half a microsecond each
constexpr auto kAwake = std::chrono::microseconds(80);  // between two programs, before it sleeps

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Whether `is_over` within the patience of one wait.
template <class Condition>
bool linger(Condition is_over) {
  for (int i = 0; i < kSpins; ++i) {
    if (is_over()) return true;
    relax();
  }
  for (int i = 0; i < kYields; ++i) {
    if (is_over()) return true;
    std::this_thread::yield();
  }
  return false;
}

}  // namespace

void Worker::wait() const {
  if (count > 1) barrier->arrive_and_wait();
}

void Barrier::arrive_and_wait() {
  const uint32_t generation = generation_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.store(generation + 1, std::memory_order_release);
    generation_.notify_all();
    return;
  }
  const auto is_over = [&] { return generation_.load(std::memory_order_acquire) != generation; };
  if (!linger(is_over)) generation_.wait(generation, std::memory_order_acquire);
}

Pool::Pool(int threads) : threads_(threads < 1 ? 1 : threads), workspaces_(threads_) {}

Pool::~Pool() {
  if (workers_ == nullptr || owner_ != getpid()) return;
  stop_ = true;
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (auto& thread : *workers_) thread.join();
  delete workers_;
}

Pool::Memory Pool::allocate(size_t bytes) {
  const size_t rounded = (bytes + 63) / 64 * 64;
  auto* memory = static_cast<unsigned char*>(std::aligned_alloc(64, rounded));
  if (memory == nullptr) throw std::bad_alloc();
  return Memory(memory);
}

void Pool::reserve(size_t private_bytes, size_t shared_bytes) {
  const std::lock_guard lock(mutex_);
  if (private_bytes > private_bytes_) {
    for (auto& workspace : workspaces_) workspace = allocate(private_bytes);
    private_bytes_ = private_bytes;
  }
  if (shared_bytes > shared_bytes_) {
    shared_ = allocate(shared_bytes);
    shared_bytes_ = shared_bytes;
  }
}

Worker Pool::worker(int id) {
  return {id, threads_, workspaces_[id].get(), shared_.get(), barrier_.get()};
}

void Pool::start() {
  if (workers_ != nullptr && owner_ == getpid()) return;
  barrier_ = std::make_unique<Barrier>(threads_);
  workers_ = new std::vector<std::thread>;
  owner_ = getpid();
  const uint32_t epoch = epoch_.load();
  for (int id = 1; id < threads_; ++id) workers_->emplace_back([this, id, epoch] { work(id, epoch); });
}

void Pool::run(Job job, const void* context) {
  const std::lock_guard lock(mutex_);
  if (threads_ == 1) {
    job(context, worker(0));
    return;
  }
  start();
  job_ = job;
  context_ = context;
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  job(context, worker(0));
  barrier_->arrive_and_wait();
}

void Pool::work(int id, uint32_t seen) {
  // `run` raises the epoch once for each job, and waits for every worker before the next.
  while (true) {
    const auto has_job = [&] { return epoch_.load(std::memory_order_acquire) != seen; };
    const auto deadline = std::chrono::steady_clock::now() + kAwake;
    while (!linger(has_job) && std::chrono::steady_clock::now() < deadline) {
    }
    epoch_.wait(seen, std::memory_order_acquire);
    ++seen;
    if (stop_) return;
    job_(context_, worker(id));
    barrier_->arrive_and_wait();
  }
}

}  // namespace perfxlm
