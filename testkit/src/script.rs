//! What a scripted server does. A [`Script`] is built in code or parsed from the flags of `scripted-server`,
//! which are the same words.

use std::time::Duration;

use serde_json::Value;

/// The whole behaviour of one scripted server.
#[derive(Clone, Debug)]
pub struct Script {
    /// In `serverInfo`, and in every answer of a tool.
    pub name: String,
    /// The eras it speaks.
    pub era: Offered,
    /// It offers tools `t0`…, prompts `p0`…, resources `test://r0`… and templates `test://x0/{id}`…
    pub tools: usize,
    /// How many prompts.
    pub prompts: usize,
    /// How many resources.
    pub resources: usize,
    /// How many resource templates.
    pub templates: usize,
    /// More tools, by their whole name.
    pub named_tools: Vec<String>,
    /// Items on one page of a list.
    pub page: usize,
    /// Waits before it reads anything.
    pub start_delay: Duration,
    /// Lines printed before anything else.
    pub banners: Vec<String>,
    /// Done once `notifications/initialized` came, or the first modern request.
    pub at_start: Vec<Step>,
    /// What it does out of the ordinary, first match wins.
    pub rules: Vec<Rule>,
    /// The rules hold in the first so many starts only: a server that recovers.
    pub rules_for_starts: Option<usize>,
    /// Goes on with a call that was cancelled, and answers it.
    pub ignores_cancel: bool,
}

/// The eras a server speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offered {
    /// `initialize` only.
    Legacy,
    /// 2026-07-28 only.
    Modern,
    /// Whichever comes first on the connection.
    Both,
}

/// What happens to one kind of message.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The method it is about.
    pub method: String,
    /// Only with this `params.name` or `params.uri`.
    pub name: Option<String>,
    /// Only so many times in one process.
    pub times: Option<usize>,
    /// Taken in order.
    pub steps: Vec<Step>,
}

/// One thing to do. A rule for a request whose steps neither answer nor end answers after the last one.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// `answer`: the proper answer; twice makes a duplicate.
    Answer,
    /// `big:BYTES`: a result of about that size.
    Big(usize),
    /// `id-last:BYTES`: a result of about that size, with the id as the last member of the line.
    IdLast(usize),
    /// `error:CODE`: a JSON-RPC error.
    Error(i64),
    /// `half`: the first half of the answer and no newline.
    Half,
    /// `slowly`: the answer in pieces of 7 bytes.
    Slowly,
    /// `hang`: no answer to this one.
    Hang,
    /// `stall`: nothing is read any more, for two minutes at most.
    Stall,
    /// `die`: the process exits (in a test's listener: the connection closes).
    Die,
    /// `delay:MS`.
    Delay(Duration),
    /// `progress:N`: so many progress notifications, if the request has a token.
    Progress(usize),
    /// `flood:N`: that many log messages.
    Flood(usize),
    /// `garbage`: lines that are not JSON, not UTF-8, not a message.
    Garbage,
    /// `wrong-id`: answers to requests that were not sent.
    WrongId,
    /// `notify:METHOD`: a notification without parameters.
    Notify(String),
    /// `list-changed:N`: so many list changes, of tools, prompts and resources in turn.
    ListChanged(usize),
    /// `grow`: one more tool from now on, announced.
    Grow,
    /// `ask:METHOD`: a request to the client; a tool's answer holds what came back.
    Ask(String),
    /// `long-line:BYTES`: a notification of that size.
    LongLine(usize),
}

impl Default for Script {
    fn default() -> Self {
        Script {
            name: "scripted".to_owned(),
            era: Offered::Legacy,
            tools: 2,
            prompts: 1,
            resources: 1,
            templates: 1,
            named_tools: Vec::new(),
            page: 1000,
            start_delay: Duration::ZERO,
            banners: Vec::new(),
            at_start: Vec::new(),
            rules: Vec::new(),
            rules_for_starts: None,
            ignores_cancel: false,
        }
    }
}

impl Script {
    /// A script from its flags, such as `&["--era", "modern", "--on", "tools/call:t0=die"]`.
    ///
    /// # Panics
    /// When the flags are wrong: the test is.
    pub fn from_flags(flags: &[&str]) -> Script {
        let mut script = Script::default();
        let mut flags = flags.iter();
        while let Some(flag) = flags.next() {
            let mut value = || (*flags.next().unwrap_or_else(|| panic!("{flag} needs a value"))).to_owned();
            script.set(flag, &mut value).unwrap_or_else(|error| panic!("{flag}: {error}"));
        }
        script
    }

    /// Takes one flag up; `value` gives what follows it.
    ///
    /// # Errors
    /// A sentence when there is no such flag or its value is wrong.
    pub fn set(&mut self, flag: &str, value: &mut dyn FnMut() -> String) -> Result<(), String> {
        match flag {
            "--name" => self.name = value(),
            "--era" => self.era = Offered::parse(&value())?,
            "--tools" => self.tools = number(&value())?,
            "--tool" => self.named_tools.push(value()),
            "--prompts" => self.prompts = number(&value())?,
            "--resources" => self.resources = number(&value())?,
            "--templates" => self.templates = number(&value())?,
            "--page" => self.page = number::<usize>(&value())?.max(1),
            "--start-delay" => self.start_delay = Duration::from_millis(number(&value())?),
            "--banner" => self.banners.push(value()),
            "--at-start" => self.at_start = steps(&value())?,
            "--on" => self.rules.push(Rule::parse(&value())?),
            "--rules-for-starts" => self.rules_for_starts = Some(number(&value())?),
            "--ignore-cancel" => self.ignores_cancel = true,
            _ => return Err("no such flag".to_owned()),
        }
        Ok(())
    }

    /// The steps for a message in the start with this number (from 1), after `done` earlier uses of each
    /// rule.
    pub(crate) fn steps_for(&self, message: &Value, start: usize, done: &mut [usize]) -> Option<Vec<Step>> {
        if self.rules_for_starts.is_some_and(|starts| start > starts) {
            return None;
        }
        for (rule, done) in self.rules.iter().zip(done) {
            if rule.is_about(message) && rule.times.is_none_or(|times| *done < times) {
                *done += 1;
                return Some(rule.steps.clone());
            }
        }
        None
    }
}

impl Offered {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "legacy" => Ok(Offered::Legacy),
            "modern" => Ok(Offered::Modern),
            "both" => Ok(Offered::Both),
            _ => Err(format!("no such era: {text}")),
        }
    }
}

impl Rule {
    /// Parses `METHOD[:NAME]=STEP[,STEP…][*TIMES]`.
    ///
    /// # Errors
    /// A sentence when the text is not of that form.
    pub fn parse(text: &str) -> Result<Rule, String> {
        let (about, what) = text.split_once('=').ok_or("a rule is METHOD[:NAME]=STEPS[*TIMES]")?;
        let (method, name) = match about.split_once(':') {
            Some((method, name)) => (method, Some(name.to_owned())),
            None => (about, None),
        };
        let (what, times) = match what.split_once('*') {
            Some((what, times)) => (what, Some(number(times)?)),
            None => (what, None),
        };
        Ok(Rule { method: method.to_owned(), name, times, steps: steps(what)? })
    }

    fn is_about(&self, message: &Value) -> bool {
        let params = &message["params"];
        message["method"] == self.method.as_str()
            && self
                .name
                .as_ref()
                .is_none_or(|name| [&params["name"], &params["uri"]].contains(&&Value::from(name.as_str())))
    }
}

impl Step {
    fn parse(text: &str) -> Result<Step, String> {
        let (word, value) = text.split_once(':').unwrap_or((text, ""));
        Ok(match word {
            "answer" => Step::Answer,
            "big" => Step::Big(number(value)?),
            "id-last" => Step::IdLast(number(value)?),
            "error" => Step::Error(number(value)?),
            "half" => Step::Half,
            "slowly" => Step::Slowly,
            "hang" => Step::Hang,
            "stall" => Step::Stall,
            "die" => Step::Die,
            "delay" => Step::Delay(Duration::from_millis(number(value)?)),
            "progress" => Step::Progress(number(value)?),
            "flood" => Step::Flood(number(value)?),
            "garbage" => Step::Garbage,
            "wrong-id" => Step::WrongId,
            "notify" => Step::Notify(value.to_owned()),
            "list-changed" => Step::ListChanged(number(value)?),
            "grow" => Step::Grow,
            "ask" => Step::Ask(value.to_owned()),
            "long-line" => Step::LongLine(number(value)?),
            _ => return Err(format!("no such step: {word}")),
        })
    }

    /// Whether a request needs no further answer after this step.
    pub(crate) fn settles(&self) -> bool {
        use Step::{Answer, Big, Die, Error, Half, Hang, IdLast, Slowly, Stall};
        matches!(self, Answer | Big(_) | IdLast(_) | Error(_) | Half | Slowly | Hang | Stall | Die)
    }
}

fn steps(text: &str) -> Result<Vec<Step>, String> {
    text.split(',').map(Step::parse).collect()
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("not a number: {text:?}"))
}
