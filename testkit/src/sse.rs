//! Server-sent events, as a client reads them.

/// One event as it came.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Event {
    /// `event:`, empty when absent (which means `message`).
    pub name: String,
    /// `id:`, if the event had one.
    pub id: Option<String>,
    /// `retry:` in milliseconds, if the event had one.
    pub retry: Option<u64>,
    /// The `data:` lines, joined.
    pub data: String,
}

/// Cuts a stream into events.
#[derive(Default)]
pub struct Events {
    waiting: Vec<u8>,
    /// Comment lines seen, which is what a keep-alive looks like.
    pub comments: usize,
}

impl Events {
    /// Takes up bytes of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    /// The next whole event. Blocks of nothing but comments are counted and skipped.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            // HTML Living Standard, Server-sent events: an event ends with an empty line, whatever ends its
            // lines.
            let (end, skip) = ["\n\n", "\r\n\r\n"]
                .iter()
                .filter_map(|blank| find(&self.waiting, blank.as_bytes()).map(|at| (at, at + blank.len())))
                .min()?;
            let block = String::from_utf8(self.waiting[..end].to_vec()).expect("events are UTF-8");
            self.waiting.drain(..skip);
            if let Some(event) = self.parse(&block) {
                return Some(event);
            }
        }
    }

    fn parse(&mut self, block: &str) -> Option<Event> {
        let mut event = Event::default();
        let mut data: Option<String> = None;
        let mut fields = 0;
        for line in block.lines() {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" => {
                    self.comments += 1;
                    continue;
                }
                "event" => value.clone_into(&mut event.name),
                "id" => event.id = Some(value.to_owned()),
                "retry" => event.retry = value.parse().ok(),
                "data" => data = Some(data.map_or(value.to_owned(), |before| format!("{before}\n{value}"))),
                _ => panic!("an unknown field in an event: {line:?}"),
            }
            fields += 1;
        }
        event.data = data.unwrap_or_default();
        (fields > 0).then_some(event)
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_of_any_split() {
        let stream =
            b": hello\n\nid: 7\nevent: message\ndata: {\"a\":\ndata: 1}\n\nretry: 500\nid: 8\ndata:\n\n";
        let mut events = Events::default();
        let mut seen = Vec::new();
        for byte in stream {
            events.feed(&[*byte]);
            seen.extend(events.next_event());
        }
        assert_eq!(events.comments, 1);
        assert_eq!((seen[0].id.as_deref(), seen[0].data.as_str()), (Some("7"), "{\"a\":\n1}"));
        assert_eq!((seen[1].retry, seen[1].data.as_str()), (Some(500), ""));
    }
}
