//! Errors that end the process: a sentence for people and an exit code for scripts. Nothing else sets exit codes.

use std::fmt;
use std::process::ExitCode;

/// An error that ends the process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    code: u8,
    sentence: String,
}

impl Failure {
    /// The command line or the environment asks for something that does not exist.
    pub(crate) fn usage(sentence: impl Into<String>) -> Self {
        Self { code: USAGE, sentence: sentence.into() }
    }

    /// The command is there, but the kernel would not run it.
    pub(crate) fn not_executable(sentence: impl Into<String>) -> Self {
        Self { code: NOT_EXECUTABLE, sentence: sentence.into() }
    }

    /// There is no such command.
    pub(crate) fn not_found(sentence: impl Into<String>) -> Self {
        Self { code: NOT_FOUND, sentence: sentence.into() }
    }

    /// Everything else: an address in use, a directory that cannot be written.
    pub(crate) fn runtime(sentence: impl Into<String>) -> Self {
        Self { code: RUNTIME, sentence: sentence.into() }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

const RUNTIME: u8 = 1;
const USAGE: u8 = 2;
// POSIX.1-2024 Shell & Utilities 2.8.2, Exit Status for Commands: 126 found but not executable, 127 not found.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
