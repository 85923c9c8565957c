//! What a pluggable module measures of itself: temperature, voltage, light received and sent, laser currents.
//!
//! How: three memory maps, told apart by the identifier in byte 0 (SFF-8024 table 4-1): SFF-8472 for SFP, SFF-8636 for
//! QSFP and QSFP28, CMIS for what is newer. The numbers stand at fixed places in each.
//!
//! Invariants: a short or unknown memory gives `None`; a lane the module does not measure (all zero with no light and no
//! current anywhere) is left out.
//! Absent on purpose: thresholds and alarms of the module's vendor, and external calibration of old SFPs.

/// A lane of light.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lane {
    /// Light received, tenths of a microwatt.
    pub received_dmw: u32,
    /// Light sent, tenths of a microwatt.
    pub sent_dmw: u32,
    /// Current of the laser, microamperes.
    pub bias_ua: u32,
    /// Whether the module has lost the signal; absent where it does not say.
    pub lost: Option<bool>,
}

/// What a module measures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Optics {
    /// Thousandths of a degree Celsius.
    pub temperature_mc: i32,
    /// Supply, microvolts.
    pub supply_uv: u32,
    /// By lane.
    pub lanes: Vec<Lane>,
}

/// How a module's memory is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    /// SFF-8472: the measures stand at the second address.
    Sfp,
    /// SFF-8636.
    Qsfp,
    /// CMIS, 8 lanes in page 11h; `flat` where there is no such page.
    Cmis {
        /// Whether the module has its lower memory and page 0 only, as copper cables do.
        flat: bool,
    },
}

/// Which map a module has, by the first bytes of its lower memory.
pub fn map(lower: &[u8]) -> Option<Map> {
    match lower.first()? {
        0x03 => Some(Map::Sfp),
        0x0c | 0x0d | 0x11 => Some(Map::Qsfp),
        0x18 | 0x19 | 0x1e | 0x1f | 0x20..=0x25 => Some(Map::Cmis { flat: lower.get(2)? & 0x80 != 0 }),
        _ => None,
    }
}

/// SFF-8472 table 9-11: `measures` is the memory at address A2h from its byte 96.
pub fn sfp(measures: &[u8]) -> Option<Optics> {
    let lane = Lane {
        received_dmw: be16(measures, 8)?,
        sent_dmw: be16(measures, 6)?,
        bias_ua: be16(measures, 4)? * 2,
        lost: measures.get(14).map(|b| b & 0x02 != 0),
    };
    Some(optics(be16(measures, 0)?, be16(measures, 2)?, vec![lane]))
}

/// SFF-8636 table 6-7 and below: `lower` is bytes 0 to 127.
pub fn qsfp(lower: &[u8]) -> Option<Optics> {
    let lost = *lower.get(3)?;
    let lanes = (0..4usize).map(|n| {
        Some(Lane {
            received_dmw: be16(lower, 34 + 2 * n)?,
            bias_ua: be16(lower, 42 + 2 * n)? * 2,
            sent_dmw: be16(lower, 50 + 2 * n)?,
            lost: Some(lost >> n & 1 != 0),
        })
    });
    Some(optics(be16(lower, 22)?, be16(lower, 26)?, lanes.collect::<Option<_>>()?))
}

/// CMIS tables 8-8, 8-47 and 8-81: `lower` is bytes 0 to 127, `page_01` and `page_11` bytes 128 to 255 of these pages,
/// empty where the module has none.
pub fn cmis(lower: &[u8], page_01: &[u8], page_11: &[u8]) -> Option<Optics> {
    let upper = |byte: usize| byte - 128;
    // currents are in 2 µA, times 1, 2 or 4
    let factor = match page_01.get(upper(160)).map_or(0, |b| b >> 3 & 3) {
        0 => 1,
        1 => 2,
        _ => 4,
    };
    let lanes = (0..8usize).map(|n| {
        Some(Lane {
            sent_dmw: be16(page_11, upper(154) + 2 * n)?,
            bias_ua: be16(page_11, upper(170) + 2 * n)? * 2 * factor,
            received_dmw: be16(page_11, upper(186) + 2 * n)?,
            lost: page_11.get(upper(147)).map(|b| b >> n & 1 != 0),
        })
    });
    let lanes = lanes.collect::<Option<Vec<_>>>().unwrap_or_default();
    Some(optics(be16(lower, 14)?, be16(lower, 16)?, lanes))
}

fn optics(temperature: u32, supply: u32, mut lanes: Vec<Lane>) -> Optics {
    let dark = |lane: &Lane| lane.received_dmw == 0 && lane.sent_dmw == 0 && lane.bias_ua == 0;
    if lanes.iter().all(dark) {
        lanes.clear();
    }
    // temperature: 1/256 °C, signed; supply: 100 µV
    let temperature = i32::from(temperature as u16 as i16);
    Optics { temperature_mc: temperature * 1_000 / 256, supply_uv: supply * 100, lanes }
}

fn be16(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 2).map(|b| u32::from(u16::from_be_bytes([b[0], b[1]])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sets big-endian numbers in a memory of zeros.
    fn memory(bytes: usize, words: &[(usize, u16)], octets: &[(usize, u8)]) -> Vec<u8> {
        let mut memory = vec![0; bytes];
        for (at, word) in words {
            memory[*at..at + 2].copy_from_slice(&word.to_be_bytes());
        }
        for (at, octet) in octets {
            memory[*at] = *octet;
        }
        memory
    }

    #[test]
    fn a_qsfp28_with_a_dark_lane() {
        let lower = memory(
            128,
            &[(22, 0x2880), (26, 33_000), (34, 8_000), (36, 7_900), (40, 8_100), (42, 3_500), (50, 9_000)],
            &[(0, 0x11), (3, 0b0100)],
        );
        assert_eq!(map(&lower), Some(Map::Qsfp));
        let it = qsfp(&lower).unwrap();
        assert_eq!((it.temperature_mc, it.supply_uv, it.lanes.len()), (40_500, 3_300_000, 4));
        assert_eq!(
            it.lanes[0],
            Lane { received_dmw: 8_000, sent_dmw: 9_000, bias_ua: 7_000, lost: Some(false) }
        );
        assert_eq!((it.lanes[2].received_dmw, it.lanes[2].lost), (0, Some(true)));
    }

    #[test]
    fn an_osfp_of_eight_lanes() {
        let lower = memory(128, &[(14, 0xff00), (16, 32_950)], &[(0, 0x19)]);
        let page_01 = memory(128, &[], &[(160 - 128, 0b0000_1000)]);
        let page_11 = memory(128, &[(154 - 128, 11_000), (170 - 128, 4_000), (200 - 128, 5)], &[]);
        assert_eq!(map(&lower), Some(Map::Cmis { flat: false }));
        let it = cmis(&lower, &page_01, &page_11).unwrap();
        assert_eq!((it.temperature_mc, it.lanes.len()), (-1_000, 8));
        assert_eq!((it.lanes[0].sent_dmw, it.lanes[0].bias_ua), (11_000, 16_000));
        assert_eq!(it.lanes[7].received_dmw, 5);
    }

    #[test]
    fn an_sfp_and_a_copper_cable() {
        let measures = memory(24, &[(0, 0x1e00), (2, 33_000), (4, 3_000), (6, 5_012), (8, 2)], &[(14, 2)]);
        let it = sfp(&measures).unwrap();
        assert_eq!(it.temperature_mc, 30_000);
        assert_eq!(it.lanes, [Lane { received_dmw: 2, sent_dmw: 5_012, bias_ua: 6_000, lost: Some(true) }]);
        let copper = memory(128, &[(14, 0x1900)], &[(0, 0x18), (2, 0x80)]);
        assert_eq!(map(&copper), Some(Map::Cmis { flat: true }));
        assert_eq!(cmis(&copper, &[], &[]).unwrap().lanes, []);
    }

    proptest! {
        #[test]
        fn any_memory_is_read_without_a_panic(a: Vec<u8>, b: Vec<u8>, c: Vec<u8>) {
            let _ = (map(&a), sfp(&a), qsfp(&a), cmis(&a, &b, &c));
        }
    }
}
