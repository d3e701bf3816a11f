//! Distributions, drawn from a generator that is handed in; and where the generators of a run come from.

use std::f64::consts::TAU;
use std::fs::File;
use std::io::{self, Read};

use crate::base::rng::ShardRng;

/// Returns a generator that begins here, or at a place of the operating system's choice.
///
/// # Errors
/// When the operating system has no random numbers.
pub(crate) fn seeded(seed: Option<u64>) -> io::Result<ShardRng> {
    if let Some(seed) = seed {
        return Ok(ShardRng::from_seed(seed));
    }
    let mut seed = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut seed)?;
    Ok(ShardRng::from_entropy(seed))
}

/// Makes a generator for a thread out of that of the run.
pub(crate) fn fork(rng: &mut ShardRng) -> ShardRng {
    ShardRng::from_seed(rng.u64())
}

/// Returns a number in `0.0..1.0`, of 53 random bits.
pub(crate) fn unit(rng: &mut ShardRng) -> f64 {
    (rng.u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Returns a number of the standard normal distribution (Box and Muller).
pub(crate) fn normal(rng: &mut ShardRng) -> f64 {
    // Not 0, whose logarithm is infinite.
    let radius = (-2.0 * (1.0 - unit(rng)).ln()).sqrt();
    radius * (TAU * unit(rng)).cos()
}

/// Zipf's law with exponent 1 over the numbers `0..count`: the k-th is drawn 1/k as often as the first.
///
/// It needs no table: W. Hörmann and G. Derflinger, "Rejection-inversion to generate variates from
/// monotone discrete distributions", 1996. The distribution 1/x between halves is inverted, and what
/// it has too much is rejected, under 5 % of the draws.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zipf {
    count: u32,
    /// The integral up to the first number, and up to the last.
    low: f64,
    high: f64,
    /// Within this distance of a number nothing is rejected.
    sure: f64,
}

impl Zipf {
    /// Creates the distribution over `count` numbers, at least 1.
    pub(crate) fn new(count: u32) -> Self {
        let count = count.max(1);
        Self {
            count,
            low: 1.5_f64.ln() - 1.0,
            high: (f64::from(count) + 0.5).ln(),
            sure: 2.0 - (2.5_f64.ln() - 0.5).exp(),
        }
    }

    /// Draws a number.
    pub(crate) fn draw(&self, rng: &mut ShardRng) -> u32 {
        loop {
            let area = self.high + unit(rng) * (self.low - self.high);
            let x = area.exp();
            // Both ends are bounded, by rounding alone it could pass them.
            let number = (x + 0.5).floor().clamp(1.0, f64::from(self.count));
            if number - x <= self.sure || area >= (number + 0.5).ln() - 1.0 / number {
                return number as u32 - 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each of `count` numbers came, of `draws`.
    fn drawn(count: u32, draws: u32) -> Vec<u32> {
        let (zipf, mut rng) = (Zipf::new(count), ShardRng::from_seed(5));
        let mut times = vec![0; count as usize];
        (0..draws).for_each(|_| times[zipf.draw(&mut rng) as usize] += 1);
        times
    }

    #[test]
    fn each_number_comes_as_often_as_zipf_says() {
        const DRAWS: u32 = 1_000_000;
        let times = drawn(1_000, DRAWS);
        let whole: f64 = (1..=1_000).map(|k| 1.0 / f64::from(k)).sum();
        // Pearson's test over the numbers: the mean of the sum is 999, its deviation 45.
        let chi: f64 = times
            .iter()
            .zip(1..)
            .map(|(n, k): (&u32, u32)| {
                let want = f64::from(DRAWS) / whole / f64::from(k);
                (f64::from(*n) - want).powi(2) / want
            })
            .sum();
        assert!((800.0..1_200.0).contains(&chi), "{chi}");
    }

    #[test]
    fn the_ends_are_drawn_and_nothing_beyond() {
        assert_eq!(drawn(1, 1_000), [1_000]);
        assert!(drawn(3, 10_000).iter().all(|n| *n > 1_000));
        let (zipf, mut rng) = (Zipf::new(1_000_000_000), ShardRng::from_seed(1));
        assert!((0..100_000).map(|_| zipf.draw(&mut rng)).max().is_some_and(|n| n > 900_000_000));
    }

    #[test]
    fn the_normal_distribution_has_its_moments() {
        let mut rng = ShardRng::from_seed(3);
        let all: Vec<f64> = (0..200_000).map(|_| normal(&mut rng)).collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / all.len() as f64;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        assert!(all.iter().all(|x| x.is_finite()));
    }
}
