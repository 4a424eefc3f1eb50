// SPDX-License-Identifier: GPL-2.0
/*
 * System calls behind which static keys flip, so that a sealed kernel must have
 * its text changed: performance events, time stamps of the network; and a
 * socket filter, which must run although nothing compiles it. With the argument
 * "before" one that was compiled: it is set at once and used when a line comes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/perf_event.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "kselftest.h"

/* Switches of this process are counted only while the scheduler's key is on. */
static void test_perf(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_CONTEXT_SWITCHES,
	};
	unsigned long long nr = 0;
	int fd = syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);

	if (fd < 0) {
		ksft_test_result_fail("perf event: %s\n", strerror(errno));
		return;
	}
	for (int i = 0; i < 5; i++)
		usleep(1000);
	ksft_test_result(read(fd, &nr, sizeof(nr)) == sizeof(nr) && nr, "perf event counts\n");
	close(fd);
}

static int loopback_up(void)
{
	struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	int ret = fd < 0 ? -1 : ioctl(fd, SIOCSIFFLAGS, &ifr);

	if (fd >= 0)
		close(fd);
	return ret;
}

/* A socket that is connected to itself. */
static int self_socket(void)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	struct timeval limit = { .tv_usec = 500000 };
	socklen_t len = sizeof(addr);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (fd < 0)
		return -1;
	if (bind(fd, (struct sockaddr *)&addr, len) ||
	    getsockname(fd, (struct sockaddr *)&addr, &len) ||
	    connect(fd, (struct sockaddr *)&addr, len) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit))) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Whether a datagram that comes back says when it came. */
static bool is_stamped(int fd)
{
	char data[8], control[128];
	struct iovec iov = { .iov_base = data, .iov_len = sizeof(data) };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg;

	if (send(fd, "stamp", 5, 0) != 5 || recvmsg(fd, &msg, 0) != 5)
		return false;
	cmsg = CMSG_FIRSTHDR(&msg);
	return cmsg && cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_TIMESTAMP;
}

static void test_timestamps(void)
{
	int fd = self_socket(), on = 1;

	ksft_test_result(fd >= 0 &&
			 !setsockopt(fd, SOL_SOCKET, SO_TIMESTAMP, &on, sizeof(on)) &&
			 is_stamped(fd), "datagrams are stamped\n");
	if (fd >= 0)
		close(fd);
}

/* Lets nothing but datagrams through whose first byte is 'y'. */
static int set_filter(int fd)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 8),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'y', 0, 1),
		BPF_STMT(BPF_RET | BPF_K, ~0U),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog prog = { .len = 4, .filter = code };

	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog));
}

static bool filters(int fd)
{
	char data[8] = "";

	return send(fd, "no", 2, 0) == 2 && send(fd, "yes", 3, 0) == 3 &&
	       recv(fd, data, sizeof(data), 0) == 3 && data[0] == 'y';
}

static void test_filter(void)
{
	int fd = self_socket();

	ksft_test_result(fd >= 0 && !set_filter(fd) && filters(fd), "socket filter filters\n");
	if (fd >= 0)
		close(fd);
}

/* Whether the compiler of BPF is on. */
static bool is_compiling(void)
{
	char state = '0';
	int fd = open("/proc/sys/net/core/bpf_jit_enable", O_RDONLY);

	if (fd >= 0 && read(fd, &state, 1) != 1)
		state = '0';
	close(fd);
	return state != '0';
}

/* Sets a filter, waits for a line, and then uses it. */
static void test_compiled_filter(void)
{
	bool was_compiled = is_compiling();
	char line[8];
	int fd = self_socket();

	ksft_test_result(fd >= 0 && was_compiled && !set_filter(fd), "a filter is compiled\n");
	if (read(STDIN_FILENO, line, sizeof(line)) < 0)
		ksft_exit_fail_msg("nobody says when: %s\n", strerror(errno));
	ksft_test_result(!is_compiling() && filters(fd), "it filters when nothing is compiled any more\n");
}

int main(int argc, char *argv[])
{
	ksft_print_header();
	if (argc > 1 && !strcmp(argv[1], "before")) {
		ksft_set_plan(2);
		if (loopback_up())
			ksft_exit_skip("no loopback interface\n");
		test_compiled_filter();
		ksft_finished();
	}
	ksft_set_plan(3);
	test_perf();
	if (loopback_up()) {
		ksft_test_result_skip("time stamps: no loopback interface\n");
		ksft_test_result_skip("socket filter: no loopback interface\n");
	} else {
		test_timestamps();
		test_filter();
	}
	ksft_finished();
}
