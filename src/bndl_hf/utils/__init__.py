"""Files that appear whole, result files, shards of long passes, and what every script does alike."""
