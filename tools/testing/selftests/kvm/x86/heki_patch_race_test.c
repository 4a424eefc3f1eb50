// SPDX-License-Identifier: GPL-2.0
/*
 * One vCPU runs an instruction all the time while another one has it changed:
 * it meets the old one or the new one, whole, and never INT3. So does a vCPU that
 * comes meanwhile.
 */
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/ioctl.h>

#include "kvm_test_harness.h"
#include "heki.h"

#define NR_VCPUS	2

/* Pages of the test memory. */
#define TEXT		0
#define TABLE		1
#define KEY		2
#define PLAIN		3
#define READ_ONLY	4	/* by its alias */
#define REQUESTS	8	/* two */

#define TARGET		0x20	/* of the jump label, from the start of the text */
#define STOP		HEKI_PAGE(PLAIN)
#define RUNS		(HEKI_PAGE(PLAIN) + 64)
#define STARTED		(HEKI_PAGE(PLAIN) + 128)

#define FLIPS		100
#define RUNS_PER_FLIP	1000
#define WAIT_MAX	(1u << 30)
#define WAIT_MS		100000

static const u8 nop[] = { 0x0f, 0x1f, 0x44, 0x00, 0x00 };
static const u8 jump[] = { 0xe9, TARGET - 5, 0x00, 0x00, 0x00 };

/* A function with a jump label: returns 1 over the NOP, 2 over the jump. */
static void put_text(struct heki_vm *h)
{
	static const u8 one[] = { 0xb8, 1, 0, 0, 0, 0xc3 };	/* mov $1, %eax; ret */
	static const u8 two[] = { 0xb8, 2, 0, 0, 0, 0xc3 };
	u8 *text = heki_hva(h, HEKI_PAGE(TEXT));

	memcpy(text, nop, sizeof(nop));
	memcpy(text + sizeof(nop), one, sizeof(one));
	memcpy(text + TARGET, two, sizeof(two));
}

/* A struct jump_entry. */
static void put_table(struct heki_vm *h)
{
	struct {
		s32 code;
		s32 target;
		s64 key;
	} *entry = heki_hva(h, HEKI_PAGE(TABLE));

	entry->code = (s64)(HEKI_PAGE(TEXT) - HEKI_PAGE(TABLE));
	entry->target = (s64)(HEKI_PAGE(TEXT) + TARGET - (HEKI_PAGE(TABLE) + 4));
	entry->key = HEKI_PAGE(KEY) - (HEKI_PAGE(TABLE) + 8);
}

static void seal(struct heki_vm *h)
{
	struct heki_seal *req = heki_begin_request(h, 0);

	put_text(h);
	put_table(h);
	heki_add_range(req, HEKI_PAGE(TEXT), PAGE_SIZE, HEKI_EXEC, HEKI_KIND_TEXT);
	heki_add_range(req, HEKI_PAGE(TABLE), PAGE_SIZE, 0, HEKI_KIND_RODATA);
	heki_ranges(req)[0].va = HEKI_PAGE(TEXT);
	heki_ranges(req)[1].va = HEKI_PAGE(TABLE);
	heki_add_pin(req, HEKI_REG_CR0, X86_CR0_WP);
	heki_areas(req)[req->nr_areas++] = (struct heki_area){
		.kind = HEKI_AREA_JUMP_TABLE, .va = HEKI_PAGE(TABLE), .len = 16,
	};
	heki_seal(h);
}

struct request {
	struct heki_patch head;
	struct heki_site site;
};

static void put_request(struct heki_vm *h, u64 gpa, const u8 *old, const u8 *new)
{
	struct request *req = heki_hva(h, gpa);

	*req = (struct request){
		.head = { .version = HEKI_ABI_VERSION, .nr_sites = 1 },
		.site = { .va = HEKI_PAGE(TEXT), .len = sizeof(nop) },
	};
	memcpy(req->site.old, old, sizeof(nop));
	memcpy(req->site.new, new, sizeof(nop));
}

/*
 * Nothing interrupts the guest; but Bochs lets the host's own timer through only
 * while the guest takes interrupts.
 */
static void let_the_host_in(void)
{
	asm volatile("sti");
}

/* Counts what the function at arg[0] returns; the first surprise ends it. */
static u64 guest_spin(u64 *arg)
{
	volatile u64 *stop = (u64 *)STOP, *runs = (u64 *)RUNS;

	let_the_host_in();
	while (!*stop) {
		u64 ret = ((u64 (*)(void))arg[0])();

		if (ret != 1 && ret != 2)
			return ret ?: ~0ull;
		runs[ret]++;
	}
	return 0;
}

/*
 * Sends the two requests at arg[0] and arg[1] in turns, arg[2] times, and each time
 * lets the other vCPU run what it made of the text.
 */
static u64 guest_flip(u64 *arg)
{
	volatile u64 *runs = (u64 *)RUNS;
	u64 i, wait, enough, ret;

	let_the_host_in();
	for (i = 0; i < arg[2]; i++) {
		ret = kvm_hypercall(KVM_HC_HEKI, HEKI_OP_PATCH, arg[i & 1],
				    sizeof(struct request), 0);
		if (ret)
			return ret;
		enough = runs[1] + runs[2] + RUNS_PER_FLIP;
		for (wait = 0; runs[1] + runs[2] < enough; wait++) {
			if (wait == WAIT_MAX)
				return ~0ull;
			cpu_relax();
		}
	}
	return 0;
}

static void *run_thread(void *vcpu)
{
	vcpu_run(vcpu);
	return NULL;
}

TEST(no_vcpu_meets_half_an_instruction)
{
	u64 *runs, first = HEKI_PAGE(REQUESTS), second = HEKI_PAGE(REQUESTS + 1);
	struct heki_vm h;
	pthread_t thread;

	heki_vm_create(&h, NR_VCPUS);
	heki_guest_enable_cr0(h.vcpu[0], X86_CR0_WP);
	seal(&h);
	put_request(&h, first, nop, jump);
	put_request(&h, second, jump, nop);
	runs = heki_hva(&h, RUNS);

	heki_prepare_call(h.vcpu[1], guest_spin, (u64[HEKI_NR_ARGS]){ HEKI_PAGE(TEXT) });
	pthread_create(&thread, NULL, run_thread, h.vcpu[1]);
	EXPECT_EQ(0, heki_call(h.vcpu[0], guest_flip, first, second, FLIPS));
	heki_poke(&h, STOP, 1);
	pthread_join(thread, NULL);
	EXPECT_EQ(0, heki_finish_call(h.vcpu[1]));

	ksft_print_msg("%ld runs over the NOP, %ld over the jump\n", (long)runs[1], (long)runs[2]);
	EXPECT_LE(FLIPS / 2 * RUNS_PER_FLIP, runs[1]);
	EXPECT_LE(FLIPS / 2 * RUNS_PER_FLIP, runs[2]);
	heki_vm_free(&h);
}

/* As guest_flip(), without a pause, until it is told to stop. */
static u64 guest_flip_on(u64 *arg)
{
	volatile u64 *stop = (u64 *)STOP;
	u64 i, ret = 0;

	let_the_host_in();
	for (i = 0; !ret && !*stop; i++)
		ret = kvm_hypercall(KVM_HC_HEKI, HEKI_OP_PATCH, arg[i & 1],
				    sizeof(struct request), 0);
	return ret;
}

/* Runs the function at arg[0], arg[1] times. */
static u64 guest_run_often(u64 *arg)
{
	u64 i, ret;

	let_the_host_in();
	for (i = 0; i < arg[1]; i++) {
		ret = ((u64 (*)(void))arg[0])();
		if (ret != 1 && ret != 2)
			return ret ?: ~0ull;
	}
	return 0;
}

/* Waits for one more PATCH than @nr; false if there is none. */
static bool patches_go_on(struct heki_vm *h, u64 nr)
{
	int i;

	for (i = 0; i < WAIT_MS; i++) {
		if (vcpu_get_stat(h->vcpu[0], heki_patch) > nr)
			return true;
		usleep(1000);
	}
	return false;
}

/* The page is read-only by the guest's own tables, which the vCPU, without WP of its own, ignores. */
static bool has_the_pin(struct kvm_vcpu *vcpu)
{
	return !(heki_call(vcpu, guest_get_cr0) & X86_CR0_WP) &&
	       heki_call(vcpu, guest_write, HEKI_ALIAS(READ_ONLY), HEKI_ATTACK) == PF_VECTOR;
}

FIXTURE(coming) {
	struct heki_vm h;
};

FIXTURE_SETUP(coming)
{
	heki_vm_create(&self->h, 1);
}

FIXTURE_TEARDOWN(coming)
{
	heki_vm_free(&self->h);
}

HEKI_TEST(coming, vcpus_meet_whole_instructions_and_have_the_pins)
{
	u64 first = HEKI_PAGE(REQUESTS), second = HEKI_PAGE(REQUESTS + 1), nr;
	struct heki_vm *h = &self->h;
	pthread_t thread;
	u32 id;

	*vm_get_pte(h->vm, heki_map_alias(h, READ_ONLY)) &= ~PTE_WRITABLE_MASK(&h->vm->mmu);
	EXPECT_FALSE(has_the_pin(h->vcpu[0]));
	heki_guest_enable_cr0(h->vcpu[0], X86_CR0_WP);
	seal(h);
	put_request(h, first, nop, jump);
	put_request(h, second, jump, nop);

	heki_prepare_call(h->vcpu[0], guest_flip_on, (u64[HEKI_NR_ARGS]){ first, second });
	pthread_create(&thread, NULL, run_thread, h->vcpu[0]);
	for (id = 1; id < HEKI_MAX_VCPUS; id++) {
		nr = vcpu_get_stat(h->vcpu[0], heki_patch);
		EXPECT_TRUE(patches_go_on(h, nr));
		heki_add_vcpu(h, id, 0);
		EXPECT_EQ(0, heki_call(h->vcpu[id], guest_run_often, HEKI_PAGE(TEXT), RUNS_PER_FLIP));
		EXPECT_TRUE(has_the_pin(h->vcpu[id]));
		nr = vcpu_get_stat(h->vcpu[0], heki_patch);
		EXPECT_TRUE(patches_go_on(h, nr));
	}
	heki_poke(h, STOP, 1);
	pthread_join(thread, NULL);
	EXPECT_EQ(0, heki_finish_call(h->vcpu[0]));

	/* Nothing of the last change is left on any of them. */
	for (id = 1; id < HEKI_MAX_VCPUS; id++) {
		EXPECT_EQ(0, heki_call(h->vcpu[id], guest_run_often, HEKI_PAGE(TEXT), 1));
		EXPECT_TRUE(has_the_pin(h->vcpu[id]));
	}
}

/*
 * A PATCH that waits: for the page of the text, which the VMM has yet to bring back
 */

struct comer {
	struct heki_vm *h;
	pid_t tid;
};

/* Calls the function at arg[0], and says so before. */
static u64 guest_start(u64 *arg)
{
	WRITE_ONCE(*(u64 *)STARTED, 1);
	return ((u64 (*)(void))arg[0])();
}

static void *create_and_run(void *arg)
{
	struct comer *c = arg;

	WRITE_ONCE(c->tid, gettid());
	heki_add_vcpu(c->h, 1, 0);
	heki_prepare_call(c->h->vcpu[1], guest_start, (u64[HEKI_NR_ARGS]){ HEKI_PAGE(TEXT) });
	vcpu_run(c->h->vcpu[1]);
	return NULL;
}

/* Does the thread wait in the kernel, where no signal reaches it? */
static bool is_stuck(pid_t tid)
{
	char path[64], stat[512] = {}, *state;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	f = fopen(path, "r");
	if (!f)
		return false;
	if (!fgets(stat, sizeof(stat), f))
		stat[0] = 0;
	fclose(f);
	state = strrchr(stat, ')');
	return state && state[1] && state[2] == 'D';
}

#define STUCK_MS	100	/* longer than any other lock is held */

/* Waits until the thread gets no further; false if its vCPU runs guest code. */
static bool is_kept_out(struct comer *c)
{
	int ms = 0;

	while (ms < STUCK_MS && !heki_peek(c->h, STARTED)) {
		usleep(1000);
		ms = READ_ONCE(c->tid) && is_stuck(c->tid) ? ms + 1 : 0;
	}
	return !heki_peek(c->h, STARTED);
}

/* Takes the page of the text away. Whoever needs it waits for the file descriptor's reader. */
static int take_text_away(struct heki_vm *h, u8 *copy)
{
	void *text = heki_hva(h, HEKI_PAGE(TEXT));
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range = { .start = (u64)text, .len = PAGE_SIZE },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int fd = syscall(__NR_userfaultfd, O_CLOEXEC);

	TEST_ASSERT(fd >= 0 && !ioctl(fd, UFFDIO_API, &api) && !ioctl(fd, UFFDIO_REGISTER, &reg),
		    "No userfaultfd: %s", strerror(errno));
	memcpy(copy, text, PAGE_SIZE);
	TEST_ASSERT(!madvise(text, PAGE_SIZE, MADV_DONTNEED), "The page stays");
	return fd;
}

static void wait_for_text(struct heki_vm *h, int fd)
{
	struct uffd_msg msg;

	TEST_ASSERT(read(fd, &msg, sizeof(msg)) == sizeof(msg) &&
		    msg.event == UFFD_EVENT_PAGEFAULT &&
		    msg.arg.pagefault.address == (u64)heki_hva(h, HEKI_PAGE(TEXT)),
		    "Something else than the text is missing");
}

static void bring_text_back(struct heki_vm *h, int fd, u8 *copy)
{
	struct uffdio_copy back = {
		.dst = (u64)heki_hva(h, HEKI_PAGE(TEXT)), .src = (u64)copy, .len = PAGE_SIZE,
	};

	TEST_ASSERT(!ioctl(fd, UFFDIO_COPY, &back), "The page does not come back");
	close(fd);
}

/* It may be made meanwhile, but it runs when the change is whole. */
HEKI_TEST(coming, a_vcpu_waits_for_the_change_under_way)
{
	struct heki_vm *h = &self->h;
	struct comer comer = { .h = h };
	pthread_t patch, come;
	u8 copy[PAGE_SIZE] __aligned(PAGE_SIZE);
	int fd;

	*vm_get_pte(h->vm, heki_map_alias(h, READ_ONLY)) &= ~PTE_WRITABLE_MASK(&h->vm->mmu);
	heki_guest_enable_cr0(h->vcpu[0], X86_CR0_WP);
	seal(h);
	put_request(h, HEKI_PAGE(REQUESTS), nop, jump);
	heki_prepare_call(h->vcpu[0], guest_hypercall,
			  (u64[HEKI_NR_ARGS]){ HEKI_OP_PATCH, HEKI_PAGE(REQUESTS),
					       sizeof(struct request) });
	fd = take_text_away(h, copy);
	pthread_create(&patch, NULL, run_thread, h->vcpu[0]);
	wait_for_text(h, fd);

	pthread_create(&come, NULL, create_and_run, &comer);
	EXPECT_TRUE(is_kept_out(&comer));
	bring_text_back(h, fd, copy);
	pthread_join(patch, NULL);
	EXPECT_EQ(0, heki_finish_call(h->vcpu[0]));
	pthread_join(come, NULL);
	EXPECT_EQ(2, heki_finish_call(h->vcpu[1]));
	EXPECT_TRUE(has_the_pin(h->vcpu[1]));
}

int main(int argc, char *argv[])
{
	heki_require();
	return test_harness_run(argc, argv);
}
