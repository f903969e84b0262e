//! Which thread goes where, and which goes first where all CPUs are busy: guests, generators and polling workers never sleep, and whoever waits for one of
//! the switch's short turns waits for them too. Needs a capability; without it every thread runs like everybody else.

/// A worker that sleeps when there is nothing to do: until it runs two guests wait for it, and then it sleeps again within microseconds.
pub const WORKER: i32 = -15;
/// What serves the API: a change of policy is awaited by an operator, and short.
pub const CONTROL: i32 = -10;
/// What a guest can keep busy as long as it likes: a worker that polls for ever, and the conversation with a front end.
pub const ORDINARY: i32 = 0;

/// Leaves these CPUs to the workers that are pinned to them: this thread, and those that it starts, run on the others, if there are any.
pub fn leave(pinned: &[usize], allowed: &[usize]) {
    let rest: Vec<usize> = allowed.iter().copied().filter(|cpu| !pinned.contains(cpu)).collect();
    if !rest.is_empty() {
        run_on(&rest);
    }
}

/// Makes this thread run on these CPUs only.
pub fn run_on(cpus: &[usize]) {
    let mut set = rustix::thread::CpuSet::new();
    cpus.iter().filter(|&&cpu| cpu < rustix::thread::CpuSet::MAX_CPU).for_each(|&cpu| set.set(cpu));
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        log::warn!("a thread cannot be kept on CPUs {cpus:?}: {error}");
    }
}

/// Sets the nice value of this thread; threads that it starts begin with the same.
pub fn set(nice: i32) {
    if let Err(error) = rustix::process::setpriority_process(None, nice) {
        log::debug!("a thread keeps its priority: {error}");
    }
}
