"""Which answers count as equal: tables of correct and wrong answers, `REFERENCE ~ ANSWER ~ ANSWER ..`."""

import pytest

from r1jax.rewards.mathematics import compare, math_answer

RIGHT = r"""
5 ~ 5 cm ~ 5\text{ cm} ~ 5\ \text{cm} ~ 5 m ~ x=5 ~ x = 2+3 = 5 ~ ５ ~ 5千克 ~ \sqrt{25} ~ The answer is 5.
5 ~ Answer: $5$ ~ 答案是5 ~ **5** ~ 5.0 ~ 5. ~ +5 ~ [ x = 5 ] ~ \[ 5 \]
5 cm ~ 5
90^\circ ~ 90 ~ 90°
90 ~ 90 degrees
90^{\circ} ~ 90^\circ
\$18.90 ~ 18.9 ~ $18.90
\$32,\!348 ~ 32348 ~ \$32348
\$36 ~ 36 dollars
5.4 \text{ cents} ~ 5.4
15\mbox{ cm}^2 ~ 15 ~ 15\text{ cm}^2 ~ 15 \text{ square centimeters}
864 \mbox{ inches}^2 ~ 864 square inches ~ 864
\frac{270}7\text{ degrees} ~ 270/7 ~ \frac{270}{7}
10,\!080 ~ 10080
24,112 ~ 24112 ~ 24, 112 ~ 24 and 112
40, 150 ~ 40,150 ~ 150, 40
11,\! 111,\! 111,\! 100 ~ 11111111100
.0000672 ~ 6.72\times10^{-5}
.35625 ~ 57/160
137 \frac{1}{2} ~ 137.5 ~ 275/2
1\frac{4}{5} ~ 9/5
\frac43 ~ 4/3
\frac 59 ~ \frac{5}{9}
\frac9{19} ~ 9/19
\dfrac{17}{50} ~ 0.34
0.34 ~ 34\%
\text{(C)} ~ C ~ (C) ~ \text{C} ~ \textbf{(C)}
\text{D} ~ D
\text{Evelyn} ~ Evelyn ~ evelyn
\text{east} ~ East
\text{even} ~ even
(6,31,-1) ~ (6, 31, -1)
\left( 3, \frac{\pi}{2} \right) ~ (3, \pi/2) ~ (3,\frac\pi2)
1,-2 ~ -2, 1 ~ \{1,-2\} ~ 1 \text{ and } -2
3, 5, 7 ~ 3, 5, and 7
-12 \text{ or } -30 ~ -30, -12
x=5 ~ 5
1 \pm \sqrt{19} ~ 1+\sqrt{19}, 1-\sqrt{19}
3 \pm 2 \sqrt{2} ~ 3+2\sqrt2 \text{ and } 3-2\sqrt2
\{1\pm\sqrt{5},-2\} ~ -2, 1+\sqrt5, 1-\sqrt5
(3,4] ~ (3, 4]
(-\infty,2)\cup(3,\infty) ~ (3,\infty)\cup(-\infty,2)
x \in [-2,7] ~ [-2,7] ~ x\in[-2, 7]
y = 2x + 3 ~ 2x+3 ~ y=3+2x
5x - 7y + 11z + 4 = 0 ~ 5x-7y+11z=-4
\begin{pmatrix} -1/3 \\ 2/3 \\ 5/3 \end{pmatrix} ~ \begin{pmatrix} -\frac13\\\frac23\\\frac53\end{pmatrix}
\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix} ~ \begin{bmatrix}-1&0\\0&-1\end{bmatrix}
6 - 5i ~ -5i+6
52_8 ~ 52_{8}
4210_{5} ~ 4210_5
(a+5)(b+2) ~ (b+2)(a+5) ~ ab+2a+5b+10
\frac{11+9a}{20} ~ \frac{11}{20}+\frac{9a}{20}
\cot x ~ \frac{1}{\tan x}
12\pi ~ 12\pi \text{ cm}
288 \pi ~ 288\pi
\frac{\sqrt{3}}{3} ~ \frac{1}{\sqrt{3}}
70 \sqrt{2} ~ 70\sqrt2 ~ 70*sqrt(2)
2\pi ~ 2pi ~ 2π ~ 2\cdot\pi
\sqrt{51} ~ √51
1/3 ~ 0.333333 ~ 0.33333333 ~ frac13 ~ 三分之一
2/3 ~ 0.666667
\pi ~ 3.1415926
\sqrt{2} ~ 1.41421356
28\% ~ 28 ~ 0.28 ~ 28 percent
28 ~ 28\%
7.2\% ~ 7.2
10\% ~ 0.1
20 \% ~ 1/5
32 ~ 三十二 ~ ３２ ~ 32个 ~ 32元
1/2 ~ 二分之一
50% ~ 百分之五十
0.5 ~ 百分之五十
3 ~ 第3 ~ 第三 ~ 三千克 ~ \frac{6}{2}
-3 ~ 负三
3.5 ~ 三点五 ~ 3.5千克
10000 ~ 一万
30000 ~ 3万
120 ~ 一百二十 ~ 5! ~ 一百二十元
105 ~ 一百零五
3000 ~ 三千个
15 ~ 15平方厘米
$5$;$10$ ~ 5; 10
$\left[\frac{1}{3},\frac{3}{2}\right]$ ~ [1/3, 3/2]
82,4564 ~ 82, 4564
10, 20, 13300000 ~ 10，20，13300000
8 ~ 2^3 ~ 2³
2^{1009} ~ 2 \cdot 2^{1008}
k \geqslant 2 ~ k \ge 2
1 < x < 2 ~ (1,2)
101 ~ a+2z = 2z + a = 101
{1,3} \cup {2,4} ~ {1,2,3,4}
a < 2 ~ 2 > a
β ~ \beta
frac13 ~ 1/3
-80\leq g(x)\leq 82 ~ -80\le g(x)\le 82
2 \text{ euros} ~ 2
85\text{ feet} ~ 85 ft
40\text{ min} ~ 40 minutes
125\textnormal{ miles} ~ 125
12\text{ square units} ~ 12
22.5^{\circ} ~ 22.5^\circ
45^\circ, 135^\circ ~ 45, 135
\frac{1}{2}, 1, 2 ~ 1, 2, 0.5
m_{\max }=n^{2}-n-1 ~ n^2-n-1
f(x)=2 x ~ 2x ~ f(x)=2x
69$,$84 ~ 69, 84
f(x)=-1$,$f(x)=x+1 ~ f(x)=x+1, f(x)=-1
14{,}916 ~ 14916
15\frac{39}{40} ~ \frac{639}{40}
1 + \sqrt[3]{2} ~ \sqrt[3]{2}+1
x^2 + y^2 = 13 ~ y^2+x^2-13=0
k = 15 ~ 15
(x^2 + 1)(x^2 - 4x + 13) ~ x^4-4x^3+14x^2-4x+13
\{4,5,7\} ~ 7,5,4
(-5,\sqrt{26}] ~ (-5, \sqrt{26}]
1103_6 ~ 1103_6
2(x+1) ~ 2x+2
(3,2) ~ x=3, y=2
\frac{x^2}{4}+\frac{y^2}{2}=1 ~ x^2+2y^2=4
0 ~ 0.0 ~ \frac{0}{5}
(-\frac{1}{2}, -0.5) ~ (-1/2,-1/2)
\cos(6^\circ)\sin(12^\circ)\csc(18^\circ) ~ \cos 6^\circ \sin 12^\circ \csc 18^\circ
\sqrt{2}/2 ~ sqrt(2)/2
\frac{1}{2} ~ 1/2 ~ .5 ~ \frac12
-\frac{1}{2} ~ \frac{-1}{2} ~ -0.5
\frac{10}{11} ~ \dfrac{10}{11}
1000 ~ 1,000 ~ 1{,}000 ~ 1\,000 ~ $1,000$ ~ \$1,000
1000000 ~ 10^6 ~ 1e6 ~ 1 \times 10^{6}
\pi r^2 ~ \pi\cdot r^2
x^2+2x+1 ~ (x+1)^2
n(n-1) ~ n^2-n
\frac{\pi}{6} ~ \pi/6
\frac{3\sqrt{3}}{4} ~ \frac{3}{4}\sqrt{3}
(2,12) \cup (12,102) ~ (2,12)\cup(12,102) ~ (12,102) \cup (2,12)
16 \sqrt{3} ~ 16\sqrt{3}\text{ square units}
3 \sec \frac{1}{2} \theta ~ 3\sec(\theta/2)
(-4x^2+x+1)(4x^2+x+1) ~ (4x^2+x+1)(-4x^2+x+1)
(w-2)(w+2)(w^2+4) ~ (w^2+4)(w^2-4)
25% ~ 百分之二十五
25 ~ 25％
100000000 ~ 一亿
12345 ~ 一万二千三百四十五
2024 ~ 二零二四
\frac{10}{3} ~ x = \frac{10}{3} \approx 3.33 ~ \frac{10}{3} ≈ 3.333
30 ~ \theta = 30^\circ
5\sqrt{2} ~ 5\sqrt{2} \approx 7.07
[-2, 7] ~ x \in [-2,7]
(5,8) ~ (x, y) = (5, 8)
x \ge 2 ~ x >= 2
x \ne 3 ~ x != 3
x < 3 ~ x \lt 3
(1,3) ~ {1,3}
\begin{pmatrix}6 & 8\end{pmatrix} ~ \begin{pmatrix}1 & 2\end{pmatrix} + \begin{pmatrix}5 & 6\end{pmatrix}
\left(\frac{1}{5},\frac{1}{6}\right) ~ \\left( \\frac{1}{5}, \\frac{1}{6} \\right)
2x ~ \frac{d}{dx} x^2
1 ~ \int_0^1 2x dx
b+a ~ a+b
8/3 ~ 2(\frac{4}{3}) ~ 2(4/3) ~ \frac{4(\frac43)}{2}
p - q ~ p-q ~ -q+p ~ x = p - q
\log_2(9) ~ \log_{2}(9) ~ 2\log_2(3)
40000 ~ 40{,}000 = 40000 ~ 40,\!000 \text{ or } 40000
"""

WRONG = r"""
24,112 ~ 112,24 ~ 24, 113 ~ 24 ~ 112
40, 150 ~ 40,151 ~ 40
5 ~ 6 ~ 5,6 ~ 5 or 6 ~ 5 and 6 ~ 6=5 ~ 5=6 ~ x=6=5 ~ 5\text{ or }6 ~ \{5,6\} ~ (5,6) ~ [5,6] ~ 5;6 ~ 5、6 ~ 5或6
5 ~ \pm 5 ~ 5 \pm 0.1 ~ 5\text{ thousand} ~ 5 thousand ~ 5 hundred ~ 5 dozen ~ 5万 ~ 5! ~ 5x ~ 5 x ~ 5 + 6 ~ 5 6
5 ~ 5^2 ~ 5^\circ 6 ~ 5.0000001 ~ 4.9999999 ~ }5{ ~ 5} ~ 5 \Rightarrow 6 ~ 5 : 6 ~ 5 \\ 6 ~ 5 (or 6) ~ 5? 6
5 ~ 5...6 ~ 5 / 6 ~ 5\text{ maybe }6 ~ the answer is 6 ~ Answer: 5 or 6 ~ - ~ + ~ . ~ \text{} ~ {} ~ ()
5 ~ \frac{5}{0} ~ \text{5 or 6} ~ \text{five or six} ~ 5 only if 6 ~ 5 if x>0 else 6 ~ either 5 or 6
5 ~ between 4 and 6 ~ 4<x<6 ~ \approx 5 ~ 5+ ~ 5- ~ 5* ~ 5^ ~ 5_6 ~ 5 mod 6 ~ 5 \pmod{6} ~ 5\bmod 6 ~ 5i ~ 5e
5 ~ 5e1 ~ 5\pi ~ 5\text{ pairs} ~ 5 halves ~ 5\text{ percent of }20 ~ \frac{5}{1}6 ~ 5 6/6 ~ 5\frac{1}{2} ~ 5 1/2
5 ~ 5,000 ~ 5.000,6 ~ 0x5 ~ 5.0.1 ~ 5:00 ~ |−5|6 ~ 5 = 5 = 6 ~ 五百 ~ 第五百 ~ 5 \approx 6 ~ 5个3
5600 ~ 5 or 600
11 ~ 5 6
30 ~ 5 6
56 ~ 5 6 ~ 五或六
0.5 ~ 0.5\%
1 ~ 1\% ~ \frac{x}{x} ~ true
0.28 ~ 28
28\% ~ 0.028
28/100 ~ 28
5 cm ~ 5 m ~ 5 km
5.4 \text{ cents} ~ \$5.4
15\mbox{ cm}^2 ~ 15 cm
6m ~ 6
6 ~ 6m ~ ⑥ ~ ٦ ~ 5 \Rightarrow 6 ~ 5 \to 6 ~ 5 -> 6 ~ 5 \implies 6 ~ 5 | 6 ~ 5 \mid 6 ~ 5 : 6 ~ 5 \quad 6 ~ 5 \\ 6
6 ~ 5 (or 6) ~ 5, no, 6 ~ 5? 6 ~ \frac{5}{6} ~ x\ge 6 ~ x>5 ~ x\ne 5 ~ \approx 6 ~ 5 \approx 6 ~ 5 \cup 6
6 ~ \max(5,6), 5 ~ \text{the smaller of }6\text{ and }7 ~ 6 \vee 5 ~ 6\lor 5 ~ 6 \land 5 ~ 6 \& 5
6 ~ 6 \text{ xor } 5 ~ 6\sim 5 ~ \begin{cases}5\\6\end{cases} ~ \overline{6} ~ \boxed{6},\boxed{5} ~ 6\boxed{5}
6 ~ \text{6 or 5} ~ [6,6] ~ n ~ ans ~ 6 + 0x ~ 5 = 5 = 6 ~ 5 = x = 6 ~ x = 5, x = 6 ~ x = 5 \text{ or } x = 6
6 ~ x=5; y=6 ~ 5\text{, }6 ~ 5 \text{and} 6 ~ 5, \ldots, 6 ~ 1,2,3,4,5,6,7,8,9 ~ \{1,2,3,4,5,6,7,8,9\} ~ 1-9
6 ~ [1,9] ~ \mathbb{N} ~ \mathbb{R} ~ x \in \{5, 6\} ~ x\in\{5\}\cup\{6\} ~ \text{(5)(6)} ~ \sqrt{36},\sqrt{25}
6 ~ \pm\sqrt{36} ~ 6 \text{ or } -6 ~ 6\mp 0.5 ~ \min(x,6) ~ \sum_{i=1}^{n} 6 ~ f(6) ~ \log(6) ~ 60\% ~ 0.6 ~ ６６
6 ~ 六十 ~ 十六 ~ 六或七 ~ 六、七 ~ 五六 ~ 六分之一 ~ 6, ~ ,6
3 n ~ 3
52_8 ~ 52_9 ~ 52 ~ 42
42 ~ 52_8
\frac{1}{2^{100}} ~ \frac{1}{3^{100}}
x^2+1=0 ~ x^2+2=0
0 ~ 10^{-30} ~ false ~ none ~ \emptyset
10^{-20}x ~ 10^{-30}x
.0000672 ~ .0000671
1/3 ~ 0.333 ~ 0.33333
\pi ~ 3.14 ~ 22/7
2/1005 ~ 0.00199
\sqrt{2}/1000 ~ 0.001414
\sqrt{25} ~ 5.0000001
(15,-29) ~ (14,-30) ~ (-29,15)
(3,4] ~ (3,4) ~ [3,4) ~ 3,4
(1,2) ~ 1 < x < 2
a+2z = 2z + a = 101 ~ 101
x \in [-2,7] ~ x \in [-2,8] ~ (-2,7)
(-\infty,2)\cup(3,\infty) ~ (-\infty,3)\cup(2,\infty) ~ (-\infty,2)
(0,9)\cup(9,36) ~ (0,36) ~ (9,0)\cup(36,9)
x=5 ~ y=5 ~ 6
\text{east} ~ seat ~ west ~ \text{east or west}
\text{Evelyn} ~ Evelyn or Briana
\text{(C)} ~ (B) ~ B or C ~ ABCDE ~ A, B, C ~ (A)(B)(C)
C ~ c or d
1,-2 ~ 1 ~ 1,-2,3 ~ 1,2 ~ 1,1
3, 5, 7 ~ 3, 5 ~ 3 5 7
1 \pm \sqrt{19} ~ 1+\sqrt{19} ~ 1\pm\sqrt{18}
y = 2x + 3 ~ 2x-3 ~ x = 2y+3 ~ 3
5x - 7y + 11z + 4 = 0 ~ 5x-7y+11z=4 ~ 0 ~ 0=0 ~ x=x
\begin{pmatrix} -1/3 \\ 2/3 \\ 5/3 \end{pmatrix} ~ \begin{pmatrix} -1/3 & 2/3 & 5/3 \end{pmatrix}
\begin{pmatrix} -1/3 \\ 2/3 \\ 5/3 \end{pmatrix} ~ \begin{pmatrix} 1/3 \\ 2/3 \\ 5/3 \end{pmatrix} ~ -1/3
6 - 5i ~ 6+5i
\cot x ~ \tan x
2k+2 ~ 2k ~ 2n+2
32 ~ 二十三 ~ 三百二十 ~ ⑥
1/2 ~ 百分之五 ~ 一又二分之一
50% ~ 百分之五
3 ~ 第4 ~ \pi \approx 3
3000 ~ 三千克
5000 ~ 5千克
\emptyset ~ 0
\infty ~ -\infty
10! ~ 9!
2^{1009} ~ 2^{1008}
1000000007 ~ 1000000008 ~ 1.000000007\times10^{8}
123456789012345678901 ~ 123456789012345678902 ~ 1.2345678901234568e20
\sin 1 ~ \sin 1^\circ
3R^2 ~ 3R^3
x^2 ~ 2x ~ x2
AB ~ CD
58,500 ~ 58.500 ~ 58, 50 ~ 58 ~ 500
1,2 ~ 12 ~ 1.2
1.2 ~ 1,2
2,500 ~ 2, 501
k \ge 2 ~ k > 2 ~ k \le 2 ~ 2
x \geq -3, x \neq 0 ~ x \geq -3
1 < x < 2 ~ (1,3) ~ [1,2] ~ 1 < x
-80\leq g(x)\leq 82 ~ -80\leq g(x)\leq 83
\{1,2\} ~ \{1,2,3\} ~ (1,2) ~ 1
\text{A,C,F} ~ A,C ~ A
f(x)=x ~ f(x)=2-x
f(x)=x$,$f(x)=2-x ~ f(x)=x
\cos(6^\circ)\sin(12^\circ)\csc(18^\circ) ~ \cos(6)\sin(12)\csc(18)
-5 ~ --5
16 ~ 一六十
3/4 ~ 四分之一 ~ 三分之四
25% ~ 百分之二十
10000 ~ 一亿 ~ 一千 ~ 十千
A ~ (A) or (B)
\text{(A)} ~ \text{(A) and (B)} ~ A/B ~ A\text{ or }B ~ AB ~ not A
\text{odd} ~ not odd
\text{even} ~ even or odd ~ neither
\text{Friday} ~ Saturday ~ Monday Tuesday Wednesday Thursday Friday
\frac{1}{2} ~ \frac{2}{1} ~ 1, 2 ~ 12 ~ \frac{1}{2}, \frac{1}{3} ~ \frac{1}{2} \text{ or } \frac{1}{3}
\frac{14}{3} ~ 14.3 ~ 4\frac{1}{3}
-\frac{35}{9} ~ \frac{35}{9} ~ |\frac{-35}{9}|
\sqrt{5} ~ -\sqrt{5} ~ \pm\sqrt{5} ~ 5 ~ \sqrt{6}
2\sqrt{5} ~ 2,\sqrt{5} ~ 2+\sqrt{5}
3\sqrt{13} ~ 13\sqrt{3}
x^2+1 ~ x^2-1
(x+1)(x-1) ~ x^2+1
x^5 - x^4 + x^3 - x^2 + x - 1 ~ x^5 - x^4 + x^3 - x^2 + x + 1
(6,31,-1) ~ (6,31,1) ~ 6 ~ (6,31) ~ \{6,31,-1\} ~ 6+31-1
(2,4) ~ [2,4] ~ \frac{2}{4} ~ 2<x<4
\left( 4 \sqrt{3}, \frac{\pi}{6} \right) ~ (4\sqrt3, \frac{\pi}{3})
2^{4181} ~ 2^{4182} ~ 4181^2
2/15 ~ 15/2
10.00 ~ 100
p+q-r ~ p-q+r
\frac{9}{\pi^2}(\sqrt{3}+3) ~ \frac{9}{\pi^2}(\sqrt{3}-3)
CD ~ DC E
9! ~ 9
\lfloor\sqrt{n-1}\rfloor ~ \lfloor\sqrt{n}\rfloor
n^2+1 ~ n^2
\binom{2n}{n} ~ \binom{n}{2}
\frac{n(n+1)}{2} ~ \frac{n(n-1)}{2}
k=2 n-1 ~ k=2n+1 ~ n=2k-1
(-\infty, 0) \cup\{1\} ~ (-\infty, 1] ~ (-\infty, 0)
y=\pm\sqrt{3}x ~ y=\sqrt{3}x
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} ~ \begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} ~ \begin{pmatrix} 1 & 2 & 3 & 4 \end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} ~ \begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix}
-2 ~ \begin{vmatrix} 1 & 2 \\ 3 & 5 \end{vmatrix}
\frac{10}{3} ~ \frac{10}{3} \approx 4.5
\begin{pmatrix}6 & 8\end{pmatrix} ~ \begin{pmatrix}1 & 2\end{pmatrix} + \begin{pmatrix}5 & 7\end{pmatrix}
\begin{pmatrix}6 & 8\end{pmatrix} ~ \begin{pmatrix}6 & 8\end{pmatrix} \begin{pmatrix}6 & 9\end{pmatrix}
\begin{pmatrix}6 & 8\end{pmatrix} ~ \begin{pmatrix}6 & 8\end{pmatrix}, \begin{pmatrix}6 & 9\end{pmatrix}
\begin{pmatrix}6 & 8\end{pmatrix} ~ \begin{pmatrix}6 & 8\end{pmatrix} \text{ or } \begin{pmatrix}6 & 9\end{pmatrix}
[-2, 7] ~ -2 \le x \le 7 ~ x \in (-2, 7)
|x| = 1 ~ 1
10/3 ~ 2(\frac{4}{3}) ~ 2(4/3) ~ 2 (\frac43)
p - q ~ q - p ~ p + q ~ pq
"""


@pytest.fixture(scope='module', autouse=True)
def prepared():
  math_answer.prepare()


def pairs(table):
  for line in table.strip().split('\n'):
    gold, *answers = line.split(' ~ ')
    for answer in answers:
      yield gold, answer


def test_right_answers():
  table = list(pairs(RIGHT))
  assert len(table) > 200
  assert [(gold, answer, reason) for gold, answer in table if (reason := compare.difference(gold, answer))] == []


def test_wrong_answers():
  table = list(pairs(WRONG))
  assert len(table) > 340
  assert [(gold, answer) for gold, answer in table if compare.difference(gold, answer) is None] == []


def test_nothing_at_all_is_no_answer():
  for answer in ('', ' ', '.', '$$', r'\text{}', r'\,', '\u3000'):
    assert compare.difference('5', answer) is not None and compare.difference('0', answer) is not None


@pytest.mark.parametrize(
  ('gold', 'answer', 'problem', 'right'),
  [
    ('50', '50%', '', 1),
    ('50', '50%', 'What percentage of it is red?', 1),
    ('50', '50%', 'How many are red?', 0),
    ('12.5', '12.5%', 'by what per cent?', 1),
    ('12.5', '12.5%', '', 0),
    ('0.5', '0.5%', 'What percent?', 0),
    ('50%', '50', 'How many?', 1),
    ('25', '25%', '增加了百分之几？', 1),
    ('72', '72 clips', 'How many clips did Natalia sell?', 1),
    ('72', '72 clips', '', 0),
    ('72', '72 clips', 'How many apples?', 0),
    ('72', '72 hundred', 'She sold two hundred clips.', 0),
    ('72', '72 red marbles', 'He has red and blue marbles.', 1),
    ('3', '3 or', 'one or two', 0),
    ('32', '32个苹果', '小明有多少个苹果？', 1),
    ('32', '32个苹果', '小明有多少个梨？', 0),
    ('5', '5个十', '十个', 0),
    ('52_8', '52', 'Express your answer in base 8.', 1),
    ('52_8', '42', 'Express your answer in base 8.', 0),
  ],
)
def test_the_problem_decides_on_percentages_units_and_bases(gold, answer, problem, right):
  assert (compare.difference(gold, answer, problem) is None) == right


def test_numbers_are_compared_digit_by_digit_however_long():
  for digits in (20, 300, 990):
    gold = '7' * digits
    assert compare.difference(gold, gold[:-1] + '7.0') is None
    assert compare.difference(gold, gold[:-1] + '8') and compare.difference(gold, '-' + gold)
    assert compare.difference(f'1/{gold}', f'2/{int(gold) * 2}') is None
    assert compare.difference(f'1/{gold}', f'2/{int(gold) * 2 + 1}')
