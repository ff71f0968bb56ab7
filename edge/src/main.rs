//! `mcp-edge`: reads its settings, serves until a signal, drains, exits.
//!
//! Exit codes: 0 served and drained, or the check succeeded · 1 could not start, or the check failed · 2 the settings
//! are wrong.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use edge::app::{App, Reload, Stop, dry_run};
use edge::config::{self, Command, Config};
use edge::ops::busy_poll::BusyPoll;
use edge::ops::diagnose::Diagnose;
use edge::ops::health_check::HealthCheck;
use edge::ops::log::Log;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

// With many small allocations from several threads, the C library's allocator returns memory late.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Where the kernel gives huge pages to every process (`always`), a page counts as used to its last byte: 16 KiB more
    // for each idle session. It fails only on kernels without huge pages. Local servers inherit the setting.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let outcome = match config::load(std::env::args_os(), variable) {
        Ok(Command::Serve(config)) => with_log(*config, serve),
        Ok(Command::DryRun(config)) => with_log(*config, run_dry),
        Ok(Command::CheckHealth(check)) => check_health(&check),
        Ok(Command::Check(diagnose)) => run_diagnosis(&diagnose),
        Ok(Command::Print(text)) => {
            print(&mut std::io::stdout(), text.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            print(&mut std::io::stderr(), &error.to_string());
            return ExitCode::from(2);
        }
    };
    outcome.unwrap_or_else(|error| {
        print(&mut std::io::stderr(), &format!("mcp-edge: {error:#}"));
        ExitCode::FAILURE
    })
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Runs `run` with a log. Its error is written after everything that was logged.
fn with_log(
    config: Config,
    run: impl FnOnce(Config, &Log) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    let log = Log::start(&config.log)?;
    Ok(run(config, &log).unwrap_or_else(|error| {
        log.say(&format!("mcp-edge: {error:#}"));
        ExitCode::FAILURE
    }))
}

fn serve(config: Config, log: &Log) -> anyhow::Result<ExitCode> {
    let busy_poll = BusyPoll::new(config.busy_poll);
    let runtime = serving_runtime(config.threads, &busy_poll)?;
    let served = runtime.block_on(async {
        let outlives = ignores_hangup();
        let (mut terminate, mut interrupt, mut hangup) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::hangup())?,
        );
        let (has_file, asked) = (!config.files.files().is_empty(), Arc::new(Notify::new()));
        let load = Box::new(|| config::load_again(std::env::args_os(), variable));
        let reload = Reload { load, asked: asked.clone() };
        let stop = async || {
            loop {
                tokio::select! {
                    _ = terminate.recv() => return Stop::Terminate,
                    _ = interrupt.recv() => return Stop::Interrupt,
                    _ = hangup.recv() => match (has_file, outlives) {
                        (true, _) => asked.notify_one(),
                        (false, true) => tracing::info!("SIGHUP: there is no configuration file to read again"),
                        // Without a file to reload, SIGHUP means that the terminal was closed.
                        (false, false) => return Stop::Interrupt,
                    },
                }
            }
        };
        App::bind(config, busy_poll, log.metrics()).await?.run(stop, reload).await;
        Ok(ExitCode::SUCCESS)
    });
    // Remaining tasks are dropped, and their local servers killed. A read of standard input cannot be cancelled while it
    // waits for a line; it must not keep the process.
    runtime.shutdown_timeout(LAST_DROPS);
    served
}

/// Whether this process was started to outlive its terminal, as by nohup. Must be read before the signal handlers are
/// installed.
// proc(5): a mask in hexadecimal, whose lowest bit is signal 1, SIGHUP
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or_default();
    u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 == 1)
}

/// Dropping the tasks takes no time; this allows for a busy machine.
const LAST_DROPS: Duration = Duration::from_millis(500);

/// A server's standard error often shows why it does not answer, so the log ends before the report is printed.
fn run_dry(config: Config, log: &Log) -> anyhow::Result<ExitCode> {
    let (report, all_answered) = runtime(config.threads)?.block_on(dry_run(config));
    log.end();
    print(&mut std::io::stdout(), report.trim_end());
    Ok(if all_answered { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check_health(check: &HealthCheck) -> anyhow::Result<ExitCode> {
    let answer = runtime(1)?.block_on(check.run()).map_err(anyhow::Error::msg)?;
    print(&mut std::io::stdout(), &answer);
    Ok(ExitCode::SUCCESS)
}

fn run_diagnosis(diagnose: &Diagnose) -> anyhow::Result<ExitCode> {
    runtime(1)?.block_on(diagnose.run(&mut |line| print(&mut std::io::stdout(), &line)))?;
    print(&mut std::io::stdout(), "No problem found.");
    Ok(ExitCode::SUCCESS)
}

fn runtime(threads: usize) -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}

/// The runtime of a serving process, whose threads poll for more work before they sleep.
fn serving_runtime(threads: usize, busy_poll: &BusyPoll) -> std::io::Result<Runtime> {
    let busy_poll = busy_poll.clone();
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(threads).enable_all().on_thread_park(move || busy_poll.parks()).build()
}

fn print(to: &mut impl Write, text: &str) {
    // If the output is closed, there is nobody to report that to.
    let _ = writeln!(to, "{text}");
}
