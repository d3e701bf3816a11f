//! Days of the calendar.

use std::fmt;

/// Seconds per day.
pub const DAY_SECONDS: u64 = 86_400;

/// Returns the days from the Unix epoch to a day of the proleptic Gregorian calendar; `None` for
/// one before it. [`Date`] is the inverse.
pub(super) const fn days_to(year: u64, month: u64, day: u64) -> Option<u64> {
    // Years that begin on 1 March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.saturating_sub(1), month + 9) };
    let (era, year) = (year / 400, year % 400);
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + year * 365 + year / 4 - year / 100 + day_of_year;
    days.checked_sub(719_468)
}

/// A unix time in seconds, formatted as its day in UTC: `2026-01-02`.
#[derive(Clone, Copy, Debug)]
pub struct Date(pub u64);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The proleptic Gregorian calendar in years that begin on 1 March, so that the leap day is
        // the last one; 719,468 days from 1 March of year 0 to the unix epoch.
        let days = self.0 / DAY_SECONDS + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        write!(f, "{:04}-{month:02}-{day:02}", era * 400 + year + later)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01"),
            (86_399, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_735_689_599, "2024-12-31"),
            (1_767_312_000, "2026-01-02"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(Date(seconds).to_string(), expected);
            let parts: Vec<u64> = expected.split('-').map(|p| p.parse().expect("a number")).collect();
            assert_eq!(days_to(parts[0], parts[1], parts[2]), Some(seconds / DAY_SECONDS));
        }
        assert_eq!(days_to(1969, 12, 31), None);
    }
}
