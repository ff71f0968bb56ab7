//! Tool arguments that a schema mirrors in HTTP headers (`x-mcp-header`), and whether a header matches its argument.

// MCP 2026-07-28 streamable-http, Custom Headers; SEP-2243

use std::fmt;

use bytes::Bytes;
use memchr::memmem;
use serde::de::IgnoredAny;
use serde_json::{Map, Value as Json};

use crate::error::ScanError;
use crate::limits::Limits;
use crate::scanner::Scanner;
use crate::span::Span;
use crate::splice::{Parts, Splice};
use crate::text;

/// One argument that is mirrored in a header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mirrored {
    /// The part of the header's name after `Mcp-Param-`, as in the schema.
    pub header: String,
    /// Keys from `arguments` to the value.
    pub path: Vec<String>,
    /// How header and argument are compared.
    pub kind: MirrorKind,
}

/// The types that may be mirrored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MirrorKind {
    /// Compared as numbers: `42` is `42.0`.
    Integer,
    /// Compared as text.
    String,
    /// `true` or `false`.
    Boolean,
}

/// Why the annotations of a schema are invalid. A client drops such a tool; a gateway removes the annotations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InvalidAnnotation {
    /// The schema is not a JSON object, or is nested too deep.
    Schema,
    /// The value is not a header token (RFC 9110 §5.6.2).
    Name,
    /// Two names are equal, ignoring case.
    Twice,
    /// The annotated value is not an integer, a string or a boolean.
    Type,
    /// The annotated value is not reached from the root by `properties` alone.
    Place,
}

impl fmt::Display for InvalidAnnotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InvalidAnnotation::Schema => "the input schema is not a JSON object",
            InvalidAnnotation::Name => "x-mcp-header must be a header token",
            InvalidAnnotation::Twice => "x-mcp-header names must differ in more than case",
            InvalidAnnotation::Type => "x-mcp-header may stand only on an integer, a string or a boolean",
            InvalidAnnotation::Place => "x-mcp-header may stand only on what `properties` alone lead to",
        })
    }
}

impl std::error::Error for InvalidAnnotation {}

/// The arguments that `input_schema` mirrors in headers.
///
/// # Errors
/// One annotation is invalid, which makes all of them invalid.
pub fn mirrored(input_schema: &[u8]) -> Result<Vec<Mirrored>, InvalidAnnotation> {
    if !may_hold_keyword(input_schema) {
        return Ok(Vec::new());
    }
    let schema: Map<String, Json> =
        serde_json::from_slice(input_schema).map_err(|_| InvalidAnnotation::Schema)?;
    let mut walk = Walk::default();
    walk.schema(&schema, Place::Root)?;
    Ok(walk.found)
}

/// Whether a key of `schema` may be the keyword, written as it is or with some characters escaped. `false` is certain
/// and spares most schemas the parser.
fn may_hold_keyword(schema: &[u8]) -> bool {
    let is_escape_of_keyword_byte = |at: usize| {
        let digits = schema.get(at + ASCII_ESCAPE.len()..).and_then(|rest| rest.get(..2));
        let byte = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        byte.is_some_and(|byte| KEYWORD.as_bytes().contains(&byte))
    };
    memmem::find(schema, KEYWORD.as_bytes()).is_some()
        || memmem::find_iter(schema, ASCII_ESCAPE).any(is_escape_of_keyword_byte)
}

/// The schema without members that look like annotations, wherever they are; all other bytes stay.
///
/// # Errors
/// The schema is not JSON, or is nested too deep.
pub fn without_annotations(input_schema: &Bytes, limits: &Limits) -> Result<Parts, ScanError> {
    let mut strip = Strip {
        scanner: Scanner::new(input_schema, Span::all(input_schema), limits),
        bytes: input_schema,
        splice: Splice::new(input_schema.clone()),
    };
    strip.value()?;
    strip.scanner.end()?;
    Ok(strip.splice.finish())
}

/// Whether a header's decoded value matches the JSON value that it mirrors.
pub fn matches(kind: MirrorKind, header: &str, json: &[u8]) -> bool {
    match kind {
        MirrorKind::String => serde_json::from_slice::<String>(json).is_ok_and(|text| text == header),
        MirrorKind::Boolean => matches!(json, b"true" | b"false") && json == header.as_bytes(),
        MirrorKind::Integer => {
            let json = std::str::from_utf8(json).ok().and_then(integer);
            json.is_some() && json == integer(header)
        }
    }
}

/// Parses a JSON number without surrounding space that is whole and in the range that all languages represent exactly.
fn integer(number: &str) -> Option<i64> {
    const SAFE: f64 = 9_007_199_254_740_991.0; // 2^53 - 1
    // serde_json checks the syntax; the standard library rounds correctly, which serde_json does not by default.
    serde_json::from_str::<IgnoredAny>(number).ok().filter(|_| number.trim_ascii() == number)?;
    let value: f64 = number.parse().ok()?;
    (value.fract() == 0.0 && value.abs() <= SAFE).then_some(value as i64)
}

const KEYWORD: &str = "x-mcp-header";
/// How JSON escapes an ASCII letter or hyphen, before its two hex digits (RFC 8259 §7).
const ASCII_ESCAPE: &[u8] = br"\u00";

#[derive(Clone, Copy)]
enum Place<'a> {
    Root,
    Property(&'a [String]),
    /// Under a keyword that applies a schema conditionally or many times.
    Elsewhere,
}

#[derive(Default)]
struct Walk {
    found: Vec<Mirrored>,
}

impl Walk {
    /// The recursion is bounded by the depth limit of the parser that made `schema`.
    fn schema(&mut self, schema: &Map<String, Json>, place: Place<'_>) -> Result<(), InvalidAnnotation> {
        if let Some(name) = schema.get(KEYWORD) {
            self.annotation(name, schema.get("type"), place)?;
        }
        for (keyword, value) in schema {
            match (keyword.as_str(), value) {
                ("properties", Json::Object(properties)) => self.properties(properties, place)?,
                (
                    "patternProperties" | "dependentSchemas" | "$defs" | "definitions",
                    Json::Object(schemas),
                ) => {
                    schemas.values().try_for_each(|schema| self.elsewhere(schema))?;
                }
                ("oneOf" | "anyOf" | "allOf" | "prefixItems" | "items", Json::Array(schemas)) => {
                    schemas.iter().try_for_each(|schema| self.elsewhere(schema))?;
                }
                (
                    "items"
                    | "contains"
                    | "additionalProperties"
                    | "propertyNames"
                    | "unevaluatedItems"
                    | "unevaluatedProperties"
                    | "additionalItems"
                    | "contentSchema"
                    | "not"
                    | "if"
                    | "then"
                    | "else",
                    schema,
                ) => self.elsewhere(schema)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn properties(
        &mut self,
        properties: &Map<String, Json>,
        place: Place<'_>,
    ) -> Result<(), InvalidAnnotation> {
        for (name, schema) in properties {
            let Json::Object(schema) = schema else { continue };
            let above = match place {
                Place::Root => &[],
                Place::Property(path) => path,
                Place::Elsewhere => {
                    self.schema(schema, Place::Elsewhere)?;
                    continue;
                }
            };
            let path: Vec<String> = above.iter().chain([name]).cloned().collect();
            self.schema(schema, Place::Property(&path))?;
        }
        Ok(())
    }

    fn elsewhere(&mut self, schema: &Json) -> Result<(), InvalidAnnotation> {
        match schema {
            Json::Object(schema) => self.schema(schema, Place::Elsewhere),
            _ => Ok(()),
        }
    }

    fn annotation(
        &mut self,
        name: &Json,
        kind: Option<&Json>,
        place: Place<'_>,
    ) -> Result<(), InvalidAnnotation> {
        let Place::Property(path) = place else { return Err(InvalidAnnotation::Place) };
        let header = name.as_str().filter(|name| is_token(name)).ok_or(InvalidAnnotation::Name)?;
        let kind = match kind.and_then(Json::as_str) {
            Some("integer") => MirrorKind::Integer,
            Some("string") => MirrorKind::String,
            Some("boolean") => MirrorKind::Boolean,
            _ => return Err(InvalidAnnotation::Type),
        };
        if self.found.iter().any(|other| other.header.eq_ignore_ascii_case(header)) {
            return Err(InvalidAnnotation::Twice);
        }
        self.found.push(Mirrored { header: header.to_owned(), path: path.to_vec(), kind });
        Ok(())
    }
}

/// Removes annotations in one pass, however deep they are: a schema may be as large as a whole list.
struct Strip<'a> {
    scanner: Scanner<'a>,
    bytes: &'a [u8],
    splice: Splice,
}

impl Strip<'_> {
    /// The recursion is bounded by the scanner's depth limit.
    fn value(&mut self) -> Result<(), ScanError> {
        match self.scanner.peek() {
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            _ => Ok(self.scanner.value().map(drop)?),
        }
    }

    fn array(&mut self) -> Result<(), ScanError> {
        self.scanner.enter(b'[')?;
        let mut more = !self.scanner.take(b']');
        while more {
            self.value()?;
            more = self.scanner.take(b',');
            if !more {
                self.scanner.expect(b']')?;
            }
        }
        self.scanner.leave();
        Ok(())
    }

    /// Removes a member with the comma before it, or, while no member before it stays, with the comma after it.
    fn object(&mut self) -> Result<(), ScanError> {
        self.scanner.enter(b'{')?;
        let mut more = !self.scanner.take(b'}');
        let (mut is_any_kept, mut before, mut gone_from) = (false, self.scanner.at(), None);
        while more {
            let key = self.scanner.key()?.span;
            if let Some(start) = gone_from.take() {
                self.splice.remove(Span { start, end: key.start });
            }
            if text::decode(key.of(self.bytes)).as_deref() == Some(KEYWORD) {
                let end = self.scanner.value()?.end;
                if is_any_kept {
                    self.splice.remove(Span { start: before, end });
                } else {
                    gone_from = Some(key.start);
                }
            } else {
                self.value()?;
                is_any_kept = true;
            }
            before = self.scanner.at();
            more = self.scanner.take(b',');
            if !more {
                self.scanner.expect(b'}')?;
            }
        }
        if let Some(start) = gone_from {
            self.splice.remove(Span { start, end: before });
        }
        self.scanner.leave();
        Ok(())
    }
}

/// RFC 9110 §5.6.2
fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{InvalidAnnotation, MirrorKind, Mirrored, matches, mirrored, without_annotations};
    use crate::limits::Limits;

    fn refused(schema: &str) -> Option<InvalidAnnotation> {
        mirrored(schema.as_bytes()).err()
    }

    #[test]
    fn annotation_below_properties_is_found() {
        let schema = br#"{"type":"object","properties":{
            "region":{"type":"string","x-mcp-header":"Region"},
            "where":{"type":"object","properties":{"zone":{"type":"integer","x-mcp-header":"Zone"}}},
            "x-mcp-header":{"type":"string"},
            "sample":{"type":"object","default":{"x-mcp-header":"not a schema"}}}}"#;
        let mirror = |header: &str, path: &[&str], kind| Mirrored {
            header: header.to_owned(),
            path: path.iter().map(|key| (*key).to_owned()).collect(),
            kind,
        };
        let expected = vec![
            mirror("Region", &["region"], MirrorKind::String),
            mirror("Zone", &["where", "zone"], MirrorKind::Integer),
        ];
        assert_eq!(mirrored(schema), Ok(expected));
        assert_eq!(mirrored(b"no annotation, no parse"), Ok(vec![]));
        assert_eq!(mirrored(br#"no parse for caf\u00e9, \u0026 or \u00"#), Ok(vec![]));
    }

    #[test]
    fn annotation_with_an_escaped_key_is_found_like_a_plain_one() {
        for key in [r"x\u002dmcp-header", r"x\u002Dmcp-header", r"\u0078\u002d\u006d\u0063\u0070-header"] {
            let schema = format!(r#"{{"properties":{{"a":{{"type":"string","{key}":"A"}}}}}}"#);
            let found = mirrored(schema.as_bytes()).expect("a valid schema");
            assert_eq!(found.iter().map(|one| one.header.as_str()).collect::<Vec<_>>(), ["A"], "{key}");
            assert_eq!(refused(&format!(r#"{{"{key}":"A"}}"#)), Some(InvalidAnnotation::Place), "{key}");
        }
    }

    #[test]
    fn schema_with_one_invalid_annotation_is_refused() {
        let property = |schema: &str| {
            format!(r#"{{"properties":{{"a":{schema},"ok":{{"type":"string","x-mcp-header":"Ok"}}}}}}"#)
        };
        let cases = [
            (r#"{"type":"string","x-mcp-header":""}"#, InvalidAnnotation::Name),
            (r#"{"type":"string","x-mcp-header":"A B"}"#, InvalidAnnotation::Name),
            (r#"{"type":"string","x-mcp-header":7}"#, InvalidAnnotation::Name),
            (r#"{"type":"string","x-mcp-header":"oK"}"#, InvalidAnnotation::Twice),
            (r#"{"type":"number","x-mcp-header":"A"}"#, InvalidAnnotation::Type),
            (r#"{"type":["string","null"],"x-mcp-header":"A"}"#, InvalidAnnotation::Type),
            (r#"{"x-mcp-header":"A"}"#, InvalidAnnotation::Type),
            (r#"{"type":"array","items":{"type":"string","x-mcp-header":"A"}}"#, InvalidAnnotation::Place),
            (
                r#"{"anyOf":[{"properties":{"b":{"type":"string","x-mcp-header":"A"}}}]}"#,
                InvalidAnnotation::Place,
            ),
            (r#"{"if":{"not":{"type":"string","x-mcp-header":"A"}}}"#, InvalidAnnotation::Place),
        ];
        for (schema, expected) in cases {
            assert_eq!(refused(&property(schema)), Some(expected), "{schema}");
        }
        assert_eq!(refused(r#"{"type":"string","x-mcp-header":"A"}"#), Some(InvalidAnnotation::Place));
        assert_eq!(
            refused(r#"{"$defs":{"d":{"type":"string","x-mcp-header":"A"}}}"#),
            Some(InvalidAnnotation::Place)
        );
        assert_eq!(refused(r#"["x-mcp-header"]"#), Some(InvalidAnnotation::Schema));
    }

    #[test]
    fn schema_without_annotations_keeps_all_other_bytes() {
        let stripped = |schema: &str| {
            without_annotations(&Bytes::copy_from_slice(schema.as_bytes()), &Limits::default())
                .map(|parts| String::from_utf8_lossy(&parts.into_bytes()).into_owned())
        };
        let table = [
            (r#"{ "b" : 1.10, "a":-0 }"#, r#"{ "b" : 1.10, "a":-0 }"#),
            (r#"{ "x-mcp-header":{"x-mcp-header":1} }"#, "{  }"),
            (r#"{"x-mcp-header":1 , "a":[ 1e2, {"x\u002dmcp-header":7}]}"#, r#"{"a":[ 1e2, {}]}"#),
            (r#"{"x-mcp-header":1,"x-mcp-header":2,"b":{"c":3 ,"x-mcp-header":1}}"#, r#"{"b":{"c":3}}"#),
            (
                r#"{"b":1 ,"x-mcp-header":1,"x-mcp-header":2,"c":"x-mcp-header"}"#,
                r#"{"b":1,"c":"x-mcp-header"}"#,
            ),
            (r#"[[],{},[{"x-mcp-header":1}],"x"]"#, r#"[[],{},[{}],"x"]"#),
        ];
        for (schema, expected) in table {
            assert_eq!(stripped(schema).ok().as_deref(), Some(expected));
        }
        assert!(stripped(r#"{"a":1"#).is_err() && stripped(&"[".repeat(2000)).is_err());
    }

    #[test]
    fn header_is_compared_by_the_type_of_its_argument() {
        let same = [
            (MirrorKind::Integer, "42", "42.0"),
            (MirrorKind::Integer, "-4.2e1", "-42"),
            (MirrorKind::Integer, "9007199254740991", "9007199254740991"),
            (MirrorKind::String, "é", r#""\u00e9""#),
            (MirrorKind::Boolean, "true", "true"),
        ];
        for (kind, header, json) in same {
            assert!(matches(kind, header, json.as_bytes()), "{header} {json}");
        }
        let different = [
            (MirrorKind::Integer, "42.5", "42.5"),
            (MirrorKind::Integer, "9007199254740993", "9007199254740993"),
            (MirrorKind::Integer, "", "42"),
            (MirrorKind::Integer, "x", r#""x""#),
            (MirrorKind::String, "42", "42"),
            (MirrorKind::String, "a", r#""A""#),
            (MirrorKind::Boolean, "True", "true"),
            (MirrorKind::Boolean, "null", "null"),
        ];
        for (kind, header, json) in different {
            assert!(!matches(kind, header, json.as_bytes()), "{header} {json}");
        }
    }
}
