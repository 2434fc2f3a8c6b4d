//! One body of plain loops, compiled once for every machine and again for wider vector units; the widest that the machine has is run.
//!
//! Compilers neither fuse nor reorder float operations on their own, so all of them give the same bits.

/// A vector unit that this machine has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Level(Unit);

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Unit {
    Any,
    Avx2,
    Avx512,
}

impl Level {
    /// The widest.
    pub fn here() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") {
                return Level(Unit::Avx512);
            }
            if has!("avx2") {
                return Level(Unit::Avx2);
            }
        }
        Level(Unit::Any)
    }

    /// Every level of this machine, for tests.
    #[cfg(test)]
    pub fn all() -> Vec<Self> {
        let units = [Unit::Any, Unit::Avx2, Unit::Avx512];
        units[..units.iter().position(|&unit| Level(unit) == Level::here()).unwrap() + 1].iter().map(|&unit| Level(unit)).collect()
    }

    pub fn unit(self) -> Unit {
        self.0
    }
}

/// `for_every_level!(fn name(level, argument: Type, ...) -> Type = body;)` defines `name`, which runs the inlined function `body` as the level asks.
macro_rules! for_every_level {
    ($(#[$note:meta])* $visible:vis fn $name:ident($level:ident $(, $argument:ident: $type:ty)* $(,)?) $(-> $back:ty)? = $body:expr;) => {
        $(#[$note])*
        #[allow(clippy::too_many_arguments)]
        $visible fn $name($level: $crate::learners::gbdt::simd::Level $(, $argument: $type)*) $(-> $back)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                #[allow(clippy::too_many_arguments)]
                fn avx512($($argument: $type),*) $(-> $back)? {
                    $body($($argument),*)
                }
                #[target_feature(enable = "avx2")]
                #[allow(clippy::too_many_arguments)]
                fn avx2($($argument: $type),*) $(-> $back)? {
                    $body($($argument),*)
                }
                match $level.unit() {
                    // SAFETY: there is such a level only where the machine has the unit.
                    $crate::learners::gbdt::simd::Unit::Avx512 => return unsafe { avx512($($argument),*) },
                    // SAFETY: as above.
                    $crate::learners::gbdt::simd::Unit::Avx2 => return unsafe { avx2($($argument),*) },
                    $crate::learners::gbdt::simd::Unit::Any => {}
                }
            }
            let _ = $level;
            $body($($argument),*)
        }
    };
}
pub(super) use for_every_level;
