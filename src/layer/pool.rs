//! The threads that compress. One pool serves every layer that a process writes, so that layers written at
//! once share the processors instead of crowding them.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::compression::Encoder;

/// A piece of work; the encoder is its thread's own.
pub(super) type Job = Box<dyn FnOnce(&mut Encoder) + Send>;

/// A handle to the threads, cheap to clone. They are started when there is work and end with the last handle.
/// How many there are has no influence on what is written.
#[derive(Debug, Clone)]
pub struct Pool {
    handle: Arc<Handle>,
}

/// Ends the threads when the last clone of a pool is dropped.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit: NonZeroUsize,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("jobs", &self.jobs.len())
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool of at most `threads` threads.
    pub fn new(threads: NonZeroUsize) -> Self {
        let shared = Shared { limit: threads, state: Mutex::default(), work: Condvar::new() };
        Self { handle: Arc::new(Handle { shared: Arc::new(shared) }) }
    }

    /// The most threads that run at once.
    pub fn threads(&self) -> NonZeroUsize {
        self.handle.shared.limit
    }

    /// Has a job done. If no thread can be had for it, which a pod's limit of processes can cause, it is done
    /// here.
    pub(super) fn submit(&self, job: Job) {
        let shared = &self.handle.shared;
        let mut state = shared.lock();
        if state.idle <= state.jobs.len() && state.threads < shared.limit.get() {
            let for_thread = Arc::clone(shared);
            let spawned = std::thread::Builder::new().name("compress".into()).spawn(move || for_thread.run());
            match spawned {
                Ok(_) => state.threads += 1,
                Err(error) => {
                    tracing::debug!(%error, "no thread to compress with");
                    if state.threads == 0 {
                        drop(state);
                        return job(&mut Encoder::default());
                    }
                }
            }
        }
        state.jobs.push_back(job);
        drop(state);
        shared.work.notify_one();
    }
}

impl Default for Pool {
    /// A thread for each processor that this process may use; limits of its container count.
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Jobs run outside the lock, so a panic cannot leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut encoder = Encoder::default();
        while let Some(job) = self.next() {
            // Whoever waits for the job's result sees that its channel is closed.
            if catch_unwind(AssertUnwindSafe(|| job(&mut encoder))).is_err() {
                encoder = Encoder::default();
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    fn pool(threads: usize) -> Pool {
        Pool::new(NonZeroUsize::new(threads).unwrap())
    }

    #[test]
    fn jobs_run_side_by_side_up_to_the_limit() {
        let pool = pool(3);
        let (sender, receiver) = mpsc::channel();
        let gate = Arc::new(std::sync::Barrier::new(4));
        for _ in 0..3 {
            let (gate, sender) = (Arc::clone(&gate), sender.clone());
            pool.submit(Box::new(move |_| {
                gate.wait();
                sender.send(std::thread::current().id()).unwrap();
            }));
        }
        gate.wait();
        let ids: std::collections::HashSet<_> = receiver.iter().take(3).collect();
        assert_eq!(ids.len(), 3);
        for _ in 0..100 {
            let sender = sender.clone();
            pool.submit(Box::new(move |_| sender.send(std::thread::current().id()).unwrap()));
        }
        assert!(receiver.iter().take(100).all(|id| ids.contains(&id)), "no fourth thread");
    }

    #[test]
    fn a_panic_costs_one_job() {
        let pool = pool(1);
        let (sender, receiver) = mpsc::channel::<u32>();
        let lost = sender.clone();
        pool.submit(Box::new(move |_| {
            let _lost = lost;
            panic!("a job that fails");
        }));
        pool.submit(Box::new(move |_| sender.send(1).unwrap()));
        assert_eq!(receiver.iter().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn threads_end_with_the_last_handle() {
        let pool = pool(2);
        let (sender, receiver) = mpsc::channel::<()>();
        let clone = pool.clone();
        clone.submit(Box::new(move |_| sender.send(()).unwrap()));
        drop((pool, clone));
        receiver.recv().unwrap();
        // The job's thread dropped its sender with the job; what is seen here is that nobody hangs.
        assert!(receiver.recv_timeout(Duration::from_secs(10)).is_err());
    }
}
