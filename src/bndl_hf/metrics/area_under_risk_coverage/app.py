"""The page of this metric on the Hub: paste columns, read the number."""

from pathlib import Path

from bndl_hf.metrics.columns import make_page

if __name__ == "__main__":
    make_page(Path(__file__).parent).launch()
