//! What was measured.

/// One line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// The case.
    pub(crate) case: &'static str,
    /// How many clients took turns.
    pub(crate) clients: u64,
    /// Whether none of them came twice.
    pub(crate) ever_new: bool,
    /// Who was measured.
    pub(crate) system: System,
    /// Beyond the loop around a program that only moves the head; of a floor, beyond the loop around an empty program.
    pub(crate) beyond: Spread,
    /// Beyond the loop around an empty program.
    pub(crate) beyond_empty: Spread,
    /// The loop around a program that only moves the head.
    pub(crate) floor: Spread,
    /// Client entries in the table afterwards.
    pub(crate) entries: usize,
    /// Runs.
    pub(crate) runs: u32,
}

/// Who was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    /// The program.
    Lbpersist,
    /// Something to compare it with.
    Floor,
}

impl System {
    /// Its name in records.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Lbpersist => "lbpersist",
            Self::Floor => "floor",
        }
    }
}

/// Several measurements of one thing, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spread {
    pub(crate) median: i64,
    pub(crate) min: i64,
    pub(crate) max: i64,
}

impl Spread {
    /// The spread of `values`, of which there is at least one.
    pub(crate) fn of(values: impl IntoIterator<Item = i64>) -> Self {
        let mut values: Vec<i64> = values.into_iter().collect();
        values.sort_unstable();
        let at = |index: usize| values.get(index).copied().unwrap_or_default();
        Self {
            median: at(values.len() / 2),
            min: at(0),
            max: values.last().copied().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_stands_in_the_middle_whatever_the_order() {
        let spread = Spread::of([90, -2, 40, 41, 700]);
        assert_eq!(spread, Spread { median: 41, min: -2, max: 700 });
    }
}
