//! Side-by-side runs against peers (`compare.sh`).
