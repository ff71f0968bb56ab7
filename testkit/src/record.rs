//! What scripted servers saw, kept in memory by a test's listener and in a file by processes.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// Everything that happened to one scripted server, over all its processes. Clones are one record.
#[derive(Clone, Debug)]
pub struct Record {
    kept: Kept,
}

#[derive(Clone, Debug)]
enum Kept {
    Memory(Arc<Mutex<Vec<Value>>>),
    /// One JSON line for each entry. Appends of one line do not mix, even from several processes.
    File(PathBuf),
}

impl Record {
    /// A record for servers inside this process.
    pub fn in_memory() -> Record {
        Record { kept: Kept::Memory(Arc::default()) }
    }

    /// A record in a file, written by `scripted-server --record FILE` and read by the test.
    pub fn in_file(path: &Path) -> Record {
        Record { kept: Kept::File(path.to_owned()) }
    }

    /// Everything so far: `{"process":N,"event":"start"|"end"}` or `{"process":N,"message":{…}}`.
    pub fn entries(&self) -> Vec<Value> {
        match &self.kept {
            Kept::Memory(entries) => entries.lock().unwrap().clone(),
            Kept::File(path) => {
                let text = std::fs::read_to_string(path).unwrap_or_default();
                // The last line may be in the middle of its write.
                text.split_inclusive('\n').filter_map(|line| serde_json::from_str(line).ok()).collect()
            }
        }
    }

    /// How many processes (or connections of a test's listener) were started.
    pub fn starts(&self) -> usize {
        self.entries().iter().filter(|entry| entry["event"] == "start").count()
    }

    /// How many of them ended by themselves or at the end of their input; a killed one is not counted.
    pub fn ends(&self) -> usize {
        self.entries().iter().filter(|entry| entry["event"] == "end").count()
    }

    /// The messages of this method, in order of arrival.
    pub fn messages(&self, method: &str) -> Vec<Value> {
        let entries = self.entries().into_iter();
        entries
            .map(|mut entry| entry["message"].take())
            .filter(|message| message["method"] == method)
            .collect()
    }

    /// How many messages of this method came.
    pub fn count(&self, method: &str) -> usize {
        self.messages(method).len()
    }

    /// The first `list` of each kind is one listing: how many complete listings of tools were begun.
    pub fn listings(&self) -> usize {
        self.messages("tools/list").iter().filter(|list| list["params"]["cursor"].is_null()).count()
    }

    pub(crate) fn event(&self, process: u64, event: &str) {
        self.add(json!({"process": process, "event": event}));
    }

    pub(crate) fn message(&self, process: u64, message: &Value) {
        self.add(json!({"process": process, "message": message}));
    }

    fn add(&self, entry: Value) {
        match &self.kept {
            Kept::Memory(entries) => entries.lock().unwrap().push(entry),
            Kept::File(path) => {
                let mut file = OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path)
                    .expect("the record can be written");
                file.write_all(format!("{entry}\n").as_bytes()).expect("the record can be written");
            }
        }
    }
}
