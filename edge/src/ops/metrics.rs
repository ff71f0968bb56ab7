//! The registry of metrics and its text form.
//!
//! Every room has its own `Metrics` and registers it here, under one prefix; this file knows none of them.
//! Label values come from closed sets or configured names only: a series for each client would be a leak.

use prometheus_client::encoding::text;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// `Content-Type` of [`encode`]'s text (OpenMetrics 1.0, Exposition Formats).
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// An empty registry: names get the prefix `mcp_edge_`.
pub fn registry() -> Registry {
    let mut registry = Registry::with_prefix("mcp_edge");
    registry.register(
        "build",
        "The version that runs; compare it across replicas after an upgrade",
        Info::new([("version", env!("CARGO_PKG_VERSION"))]),
    );
    registry
}

/// The registry as text.
pub fn encode(registry: &Registry) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail; a metric that fails to encode itself is left out with what follows it.
    if let Err(error) = text::encode(&mut out, registry) {
        tracing::error!(%error, "metrics are incomplete");
    }
    out
}

/// Gives each variant of a closed set its word, for labels and logs; a derived label would be the variant's name in Rust.
macro_rules! words {
    ($set:ty { $($variant:ident => $word:literal),* $(,)? }) => {
        impl $set {
            /// The word in labels and logs.
            pub(crate) fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),*
                }
            }
        }

        impl prometheus_client::encoding::EncodeLabelValue for $set {
            fn encode(
                &self,
                encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
            ) -> Result<(), std::fmt::Error> {
                prometheus_client::encoding::EncodeLabelValue::encode(&self.as_str(), encoder)
            }
        }
    };
}

pub(crate) use words;

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn encoded_text_has_prefixed_names_and_an_end() {
        let mut registry = registry();
        let calls = Counter::<u64>::default();
        registry.register("calls", "Calls", calls.clone());
        calls.inc();
        let text = encode(&registry);
        assert!(text.contains("mcp_edge_calls_total 1\n"), "{text}");
        assert!(text.contains("mcp_edge_build_info{version=\""), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
