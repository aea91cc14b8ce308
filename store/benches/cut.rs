//! How fast files are cut.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use strongroom_store::cut::{CutParams, Cutter, Supply};

/// Bytes cut in one round: larger than the caches.
const DATA_BYTES: usize = 64 << 20;

fn cut(criterion: &mut Criterion) {
    let mut data = vec![0; DATA_BYTES];
    blake3::Hasher::new().finalize_xof().fill(&mut data);
    let Ok(cutter) = Cutter::new(CutParams::FILES, (0x1234_5678, 0x9e37_79b1)) else { return };
    let mut group = criterion.benchmark_group("cut");
    group.throughput(Throughput::Bytes(DATA_BYTES as u64));
    group.sample_size(20);
    group.bench_function("mincut", |bencher| {
        bencher.iter(|| {
            let mut rest = data.as_slice();
            while let Some(len) = cutter.next_cut(black_box(rest), Supply::Ended) {
                rest = rest.get(len..).unwrap_or_default();
            }
        });
    });
    group.finish();
}

criterion_group!(benches, cut);
criterion_main!(benches);
