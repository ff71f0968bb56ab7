//! A future that is polled again at once when it wakes itself while it is polled.
//!
//! hyper wakes a connection's task from within: taking a body's bytes wakes their sender, which is the task that is being
//! polled. The runtime would put the task back into its queue and wake another thread for it: two system calls and a
//! change of core for each request, to find that there is nothing to do. Here such a wake-up polls once more, on the
//! spot. A wake-up at any other time goes to the task as usual, so none is lost.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

pin_project_lite::pin_project! {
    /// Polls a future again if it wakes itself while it is polled.
    pub(super) struct RepollOnSelfWake<F> {
        #[pin]
        future: F,
        own: Arc<SelfWaker>,
        waker: Waker,
    }
}

/// The waker that the future is polled with.
struct SelfWaker {
    state: AtomicU8,
    /// The task that polls it.
    task: Mutex<Waker>,
}

/// ```text
/// IDLE ──poll──▶ POLLING ──woken──▶ WOKEN
///   ▲               │ pending          │ pending: polled once more
///   └───────────────┘ ◀────────────────┘
/// ```
const IDLE: u8 = 0;
const POLLING: u8 = 1;
const WOKEN: u8 = 2;

impl<F> RepollOnSelfWake<F> {
    pub(super) fn new(future: F) -> Self {
        let own = Arc::new(SelfWaker { state: AtomicU8::new(IDLE), task: Mutex::new(Waker::noop().clone()) });
        let waker = Waker::from(own.clone());
        Self { future, own, waker }
    }

    /// The wrapped future.
    pub(super) fn inner(self: Pin<&mut Self>) -> Pin<&mut F> {
        self.project().future
    }
}

impl<F: Future> Future for RepollOnSelfWake<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        this.own.task.lock().clone_from(context.waker());
        for _ in 0..POLLS {
            this.own.state.store(POLLING, Ordering::Release);
            if let Poll::Ready(output) = this.future.as_mut().poll(&mut Context::from_waker(this.waker)) {
                return Poll::Ready(output);
            }
            if this.own.state.swap(IDLE, Ordering::AcqRel) == POLLING {
                return Poll::Pending;
            }
        }
        // It has more to do than one request; other tasks get their turn first.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Wake for SelfWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let woken = self.state.compare_exchange(POLLING, WOKEN, Ordering::AcqRel, Ordering::Acquire);
        if woken == Err(IDLE) {
            self.task.lock().wake_by_ref();
        }
    }
}

/// Polls in a row. A request wakes its connection once: two more polls serve it, and a busy connection still yields.
const POLLS: usize = 3;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Polls once a future that wakes itself in its first `wakes` polls. Returns how often it was polled and its task woken.
    fn run(wakes: usize) -> (usize, usize) {
        let (count, mut polls) = (Arc::new(Count::default()), 0);
        let task = Waker::from(count.clone());
        let mut again = pin!(RepollOnSelfWake::new(poll_fn(|context| {
            polls += 1;
            if polls <= wakes {
                context.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        })));
        assert!(again.as_mut().poll(&mut Context::from_waker(&task)).is_pending());
        (polls, count.0.load(Ordering::Relaxed))
    }

    #[test]
    fn future_that_wakes_itself_is_polled_again_without_waking_the_task() {
        assert_eq!(run(0), (1, 0));
        assert_eq!(run(1), (2, 0));
        assert_eq!(run(2), (3, 0));
    }

    #[test]
    fn future_that_always_wakes_itself_yields_to_other_tasks() {
        assert_eq!(run(usize::MAX), (POLLS, 1));
    }

    #[test]
    fn wake_up_from_elsewhere_reaches_the_task() {
        let count = Arc::new(Count::default());
        let task = Waker::from(count.clone());
        let kept = Mutex::new(None);
        let mut again = pin!(RepollOnSelfWake::new(poll_fn(|context| {
            *kept.lock() = Some(context.waker().clone());
            Poll::<()>::Pending
        })));
        assert!(again.as_mut().poll(&mut Context::from_waker(&task)).is_pending());
        kept.lock().take().unwrap().wake();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn wake_ups_from_another_thread_are_not_lost() {
        for _ in 0..200 {
            let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
            let sending = tokio::spawn(async move {
                for number in 0..50 {
                    let _ = sender.send(number);
                    if number % 7 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
            });
            let mut receiver = receiver;
            let mut sum = 0;
            RepollOnSelfWake::new(async {
                while let Some(number) = receiver.recv().await {
                    sum += number;
                }
            })
            .await;
            sending.await.unwrap();
            assert_eq!(sum, 49 * 50 / 2);
        }
    }
}
