//! Which requests leave a span: the samplers of OpenTelemetry, by their names there. Imports nothing of ours.

use super::context::Context;

/// Which requests leave a span.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Whether the span above decides, where there is one.
    pub parent: Parent,
    /// What decides otherwise.
    pub share: Share,
}

/// Whether the span above decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// It does: a trace is whole or absent.
    Heeded,
    /// It does not.
    Ignored,
}

/// A part of all traces, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(f64);

impl Share {
    /// All of them.
    pub const ALL: Self = Self(1.0);
    /// None of them.
    pub const NONE: Self = Self(0.0);

    /// `None` if `number` is not between 0 and 1.
    pub fn new(number: f64) -> Option<Self> {
        (0.0..=1.0).contains(&number).then_some(Self(number))
    }

    /// By the end of the trace's id, as all SDKs of OpenTelemetry do: whoever takes the same share takes the same traces.
    #[expect(clippy::cast_precision_loss, reason = "2^-53 of the traces is no difference")]
    fn includes(self, context: Context) -> bool {
        const ALL: f64 = (1_u64 << 63) as f64;
        let place = context.end_of_trace() >> 1;
        self.0 >= 1.0 || (place as f64) < self.0 * ALL
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Self { parent: Parent::Heeded, share: Share::ALL }
    }
}

impl Sampling {
    /// A sampler by the name that `OTEL_TRACES_SAMPLER` has for it.
    pub fn named(name: &str, share: Share) -> Option<Self> {
        Some(match name {
            "always_on" => Self { parent: Parent::Ignored, share: Share::ALL },
            "always_off" => Self { parent: Parent::Ignored, share: Share::NONE },
            "traceidratio" => Self { parent: Parent::Ignored, share },
            "parentbased_always_on" => Self { parent: Parent::Heeded, share: Share::ALL },
            "parentbased_always_off" => Self { parent: Parent::Heeded, share: Share::NONE },
            "parentbased_traceidratio" => Self { parent: Parent::Heeded, share },
            _ => return None,
        })
    }

    /// Whether a request below `parent` leaves a span.
    pub(super) fn takes(&self, parent: Context) -> bool {
        match self.parent {
            Parent::Heeded => parent.is_sampled(),
            Parent::Ignored => self.share.includes(parent),
        }
    }

    /// Whether the first request of the trace `root` does.
    pub(super) fn takes_root(&self, root: Context) -> bool {
        self.share.includes(root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_takes_about_that_many_and_the_same_ones_for_everybody() {
        let quarter = Share::new(0.25).unwrap();
        let roots: Vec<Context> = (0..10_000).map(|_| Context::root(|_| false)).collect();
        let taken = roots.iter().filter(|root| quarter.includes(**root)).count();
        assert!((2_200..2_800).contains(&taken), "{taken}");
        let half = Share::new(0.5).unwrap();
        assert!(roots.iter().all(|root| !quarter.includes(*root) || half.includes(*root)));
        assert!(roots.iter().all(|root| Share::ALL.includes(*root) && !Share::NONE.includes(*root)));
        assert!([-0.1, 1.1, f64::NAN].into_iter().all(|number| Share::new(number).is_none()));
    }

    #[test]
    fn a_parent_decides_where_it_is_heeded() {
        let (on, off) = (Context::root(|_| true), Context::root(|_| false));
        let takes = |name: &str| {
            let sampling = Sampling::named(name, Share::NONE).unwrap();
            (sampling.takes(on), sampling.takes(off), sampling.takes_root(off))
        };
        assert_eq!(takes("always_on"), (true, true, true));
        assert_eq!(takes("always_off"), (false, false, false));
        assert_eq!(takes("traceidratio"), (false, false, false));
        assert_eq!(takes("parentbased_always_on"), (true, false, true));
        assert_eq!(takes("parentbased_always_off"), (true, false, false));
        assert_eq!(takes("parentbased_traceidratio"), (true, false, false));
        assert_eq!(Sampling::named("jaeger_remote", Share::ALL), None);
    }
}
