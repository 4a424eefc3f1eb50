// SPDX-License-Identifier: GPL-2.0
/*
 * System calls behind which static keys flip, so that a sealed kernel must have
 * its text changed: performance events, time stamps of the network; and a
 * socket filter, which must run although nothing compiles it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
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
static void test_filter(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 8),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'y', 0, 1),
		BPF_STMT(BPF_RET | BPF_K, ~0U),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog prog = { .len = 4, .filter = code };
	int fd = self_socket();
	char data[8] = "";

	ksft_test_result(fd >= 0 &&
			 !setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)) &&
			 send(fd, "no", 2, 0) == 2 && send(fd, "yes", 3, 0) == 3 &&
			 recv(fd, data, sizeof(data), 0) == 3 && data[0] == 'y',
			 "socket filter filters\n");
	if (fd >= 0)
		close(fd);
}

int main(void)
{
	ksft_print_header();
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
