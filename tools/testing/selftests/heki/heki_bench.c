// SPDX-License-Identifier: GPL-2.0
/*
 * Counts the TSC ticks of writes to files of the kernel.
 *
 *   heki_bench NAME ROUNDS FILE VALUE [FILE VALUE]...
 *
 * Writes each value to its file, in this order, ROUNDS times, and prints one line
 * "figure: text name=NAME ops=N ticks=N" with all writes and their ticks. Under Bochs a tick
 * is an emulated instruction, whoever ran it: guest or host.
 */
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <x86intrin.h>

static void put(const char *path, const char *value)
{
	ssize_t len = strlen(value);
	int fd = open(path, O_WRONLY | O_TRUNC);

	if (fd < 0)
		err(1, "%s", path);
	if (write(fd, value, len) != len)
		err(1, "%s: %s", path, value);
	close(fd);
}

int main(int argc, char *argv[])
{
	unsigned long long begin, ticks;
	int rounds, i, arg;

	if (argc < 5 || argc % 2 == 0)
		errx(2, "usage: heki_bench NAME ROUNDS FILE VALUE [FILE VALUE]...");
	rounds = atoi(argv[2]);
	if (rounds < 1)
		errx(2, "%s: not a number of rounds", argv[2]);

	begin = __rdtsc();
	for (i = 0; i < rounds; i++) {
		for (arg = 3; arg < argc; arg += 2)
			put(argv[arg], argv[arg + 1]);
	}
	ticks = __rdtsc() - begin;
	printf("figure: text name=%s ops=%d ticks=%llu\n", argv[1], rounds * (argc - 3) / 2, ticks);
	return 0;
}
