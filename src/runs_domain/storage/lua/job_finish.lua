-- ARGV: group, consumer, ticket, key. → 1, or 0 if the job is not this consumer's any more.
return release(ARGV[2], ARGV[3], ARGV[4]) and 1 or 0
