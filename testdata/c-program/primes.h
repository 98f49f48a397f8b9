#ifndef PRIMES_H
#define PRIMES_H

#include <stddef.h>

/* How many primes are less than `limit`. */
size_t primes_below(size_t limit);

#endif
